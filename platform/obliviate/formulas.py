"""Each statistic of a token, and its gradient, from the logits that predict it: a block of the vocabulary at a time.

Softmax and means are gathered from block to block (Milakov and Gimelshein 2018, arXiv:1805.02867).

Shapes: N positions, V the columns of a block. Log-probabilities are in nats, float32.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import inf, log

import torch
from torch import Tensor

from obliviate.scoring import Distilled, Generic, Stat, Steered, TokenStat
from obliviate.vocabulary import Largest, Softmax, add_at, log_ratio_to_mixture, place


class Statistics:
    """Gathers the statistics of N positions from the blocks of their logits.

    `constants` holds, of each statistic, what its gradient needs beside the logits: the entropy itself, the logsumexp
    of a teacher's logits and the least of them that counts, the place of the largest logit, of the divergence both the
    teacher's and KL(P || mixture). `floors`: see there.
    """

    def __init__(self, stats: Sequence[TokenStat], labels_N: Tensor, floors: Mapping[TokenStat, Tensor]) -> None:
        self._stats, self._labels_N, self._floors = stats, labels_N, floors
        self._zeros_N = torch.zeros(labels_N.shape, device=labels_N.device)
        self._model = Softmax(self._zeros_N)
        taught = [stat for stat in stats if _compares(stat) or stat is Stat.REFERENCE_JS]
        self._teachers = {stat: Softmax(self._zeros_N) for stat in taught}
        self._sum_N, self._label_z_N = self._zeros_N, self._zeros_N
        self._largest_N, self._argmax_N = torch.full_like(self._zeros_N, -inf), torch.zeros_like(labels_N)
        self._rival_z_N, self._rival_N = self._largest_N, self._argmax_N
        self._generic_z_N, self._generic_N, self._of_generic_N = self._largest_N, self._argmax_N, self._zeros_N
        self._to_mixture_N, self._teacher_to_mixture_N = self._zeros_N, self._zeros_N  # KL, of the second passage
        self._vocabulary = 0

    def add(self, z_NV: Tensor, columns: slice, reference_z_NV: Tensor | None) -> None:
        self._vocabulary += z_NV.shape[-1]
        self._model.add(z_NV, z_NV if Stat.ENTROPY in self._stats else None)
        for stat, teacher in self._teachers.items():
            teacher_z_NV = _teacher_logits(stat, z_NV, self._labels_N, columns, reference_z_NV, self._floors.get(stat))
            # KL from differences: both means alone are large, and nearly cancel where the distributions are close.
            teacher.add(teacher_z_NV, teacher_z_NV - z_NV if stat is Stat.REFERENCE_KL else z_NV)
        if Stat.LOGP in self._stats:
            self._label_z_N = _taken(z_NV, self._labels_N, columns, self._label_z_N)
        if Stat.UNIFORM_KL in self._stats or Stat.LOGIT_GAP in self._stats:
            self._sum_N = self._sum_N + z_NV.sum(-1)
        if Stat.LOGIT_GAP in self._stats:
            self._argmax_N, self._largest_N = _larger(z_NV, columns, self._argmax_N, self._largest_N)
        if Stat.RIVAL in self._stats:
            wrong_NV = add_at(z_NV.clone(), self._labels_N, columns, torch.full_like(self._zeros_N, -inf))
            self._rival_N, self._rival_z_N = _larger(wrong_NV, columns, self._rival_N, self._rival_z_N)
        if any(isinstance(stat, Generic) for stat in self._stats):
            assert reference_z_NV is not None
            self._generic_N, self._generic_z_N = _larger(reference_z_NV, columns, self._generic_N, self._generic_z_N)
            self._of_generic_N = _taken(z_NV, self._generic_N, columns, self._of_generic_N)

    def add_to_divergence(self, z_NV: Tensor, reference_z_NV: Tensor) -> None:
        """A second passage over the blocks: the mixture of two distributions needs both logsumexps beforehand."""
        logp_NV = z_NV - self.lse_N[:, None]
        logq_NV = reference_z_NV - self._teachers[Stat.REFERENCE_JS].lse_N[:, None]
        of_p_N = (logp_NV.exp() * log_ratio_to_mixture(logp_NV, logq_NV)).sum(-1)
        of_q_N = (logq_NV.exp() * log_ratio_to_mixture(logq_NV, logp_NV)).sum(-1)
        self._to_mixture_N = self._to_mixture_N + of_p_N
        self._teacher_to_mixture_N = self._teacher_to_mixture_N + of_q_N

    @property
    def lse_N(self) -> Tensor:
        return self._model.lse_N

    def values(self) -> dict[TokenStat, Tensor]:
        """[N] each."""
        return {stat: self._value(stat) for stat in self._stats}

    def _value(self, stat: TokenStat) -> Tensor:
        match stat:
            case Stat.LOGP:
                return self._label_z_N - self.lse_N
            case Stat.ENTROPY:
                return self.lse_N - self._model.mean_N
            case Stat.UNIFORM_KL:
                return self.lse_N - self._sum_N / self._vocabulary - log(self._vocabulary)
            case Stat.REFERENCE_KL:
                teacher = self._teachers[stat]
                return teacher.mean_N + (self.lse_N - teacher.lse_N)
            case Stat.REFERENCE_JS:
                return (self._to_mixture_N + self._teacher_to_mixture_N) / 2
            case Stat.RIVAL:
                return self._rival_z_N - self.lse_N
            case Stat.LOG_VOCABULARY:
                return torch.full_like(self._zeros_N, log(self._vocabulary))
            case Stat.LOGIT_GAP:
                return self._largest_N - self._sum_N / self._vocabulary
            case Distilled() | Steered():
                return self.lse_N - self._teachers[stat].mean_N
            case Generic():
                return self._of_generic_N - self.lse_N

    def constants(self) -> dict[TokenStat, Tensor]:
        found = {stat: teacher.lse_N for stat, teacher in self._teachers.items()}
        found |= {stat: torch.stack([found[stat], floor_N]) for stat, floor_N in self._floors.items()}
        if Stat.ENTROPY in self._stats:
            found[Stat.ENTROPY] = self._value(Stat.ENTROPY)
        if Stat.LOGIT_GAP in self._stats:
            found[Stat.LOGIT_GAP] = self._argmax_N
        if Stat.RIVAL in self._stats:
            found[Stat.RIVAL] = self._rival_N
        found |= {stat: self._generic_N for stat in self._stats if isinstance(stat, Generic)}
        if Stat.REFERENCE_JS in self._stats:
            found[Stat.REFERENCE_JS] = torch.stack([found[Stat.REFERENCE_JS], self._to_mixture_N])
        return found


def _compares(stat: TokenStat) -> bool:
    """Whether the statistic is a cross-entropy from a teacher's distribution, less at most a constant."""
    return stat is Stat.REFERENCE_KL or isinstance(stat, Distilled | Steered)


def _taken(z_NV: Tensor, tokens_N: Tensor, columns: slice, otherwise_N: Tensor) -> Tensor:
    """The logits of these tokens, where they are of this block."""
    index_N, inside_N = place(tokens_N, columns)
    return torch.where(inside_N, z_NV.gather(-1, index_N[:, None])[:, 0], otherwise_N)


def _larger(z_NV: Tensor, columns: slice, argmax_N: Tensor, largest_N: Tensor) -> tuple[Tensor, Tensor]:
    """Place and value of the largest logit, this block's or that of the blocks before."""
    found_N, place_N = z_NV.max(-1)
    return torch.where(found_N > largest_N, place_N + columns.start, argmax_N), torch.maximum(largest_N, found_N)


def logit_gradient(
    z_NV: Tensor,
    labels_N: Tensor,
    columns: slice,
    grads: Mapping[TokenStat, Tensor],
    lse_N: Tensor,
    constants: Mapping[TokenStat, Tensor],
    vocabulary: int,
    reference_z_NV: Tensor | None,
) -> Tensor:
    """Of the statistics, weighted by `grads` [N], in one block of the logits: of the block's shape.

    d logp = onehot - p;  d KL(U||P) = p - 1/V;  d KL(Q||P) = d CE(Q, P) = p - q;  d H = -p (log p + H);
    d (max - mean) = onehot(argmax) - 1/V;  d JS(Q, P) = p (log(p / m) - KL(P||M)) / 2, where m = (p + q) / 2.
    """
    constant_N = torch.zeros_like(lse_N)
    of_p_N = torch.zeros_like(lse_N)
    for stat, grad_N in grads.items():
        if stat in (Stat.LOGP, Stat.RIVAL) or isinstance(stat, Generic):
            of_p_N = of_p_N - grad_N
        elif stat is Stat.UNIFORM_KL or _compares(stat):
            of_p_N = of_p_N + grad_N
        if stat in (Stat.UNIFORM_KL, Stat.LOGIT_GAP):
            constant_N = constant_N - grad_N / vocabulary
    logp_NV = z_NV - lse_N[:, None]
    if Stat.ENTROPY in grads:
        p_NV, grad_N = logp_NV.exp(), grads[Stat.ENTROPY]
        surplus_NV = logp_NV.add_(constants[Stat.ENTROPY][:, None]).mul_(grad_N[:, None])
        dz_NV = surplus_NV.neg_().add_(of_p_N[:, None]).mul_(p_NV).add_(constant_N[:, None])
    else:
        dz_NV = logp_NV.exp_().mul_(of_p_N[:, None]).add_(constant_N[:, None])
    for stat, grad_N in grads.items():
        if stat is Stat.LOGP:
            add_at(dz_NV, labels_N, columns, grad_N)
        elif stat in (Stat.LOGIT_GAP, Stat.RIVAL) or isinstance(stat, Generic):
            add_at(dz_NV, constants[stat], columns, grad_N)
        elif stat is Stat.REFERENCE_JS:
            assert reference_z_NV is not None
            teacher_lse_N, to_mixture_N = constants[stat]
            own_NV = z_NV - lse_N[:, None]
            ratio_NV = log_ratio_to_mixture(own_NV, reference_z_NV - teacher_lse_N[:, None])
            dz_NV += own_NV.exp_() * (ratio_NV - to_mixture_N[:, None]) * (grad_N[:, None] / 2)
        elif _compares(stat):
            teacher_lse_N, *floor = constants[stat] if _cut(stat) else (constants[stat],)
            teacher_z_NV = _teacher_logits(stat, z_NV, labels_N, columns, reference_z_NV, *floor)
            dz_NV -= (teacher_z_NV - teacher_lse_N[:, None]).exp_().mul_(grad_N[:, None])
    return dz_NV


def floors(
    stats: Sequence[TokenStat], labels_N: Tensor, reference_blocks: Iterable[tuple[slice, Tensor]]
) -> dict[TokenStat, Tensor]:
    """Of each statistic whose teacher is cut to its likeliest tokens, the least logit that counts, [N]; of equal ones
    all do. A passage over the reference's logits of its own, which is made only where there is such a statistic."""
    largest = {stat: Largest(stat.top) for stat in stats if isinstance(stat, Distilled) and stat.top is not None}
    if largest:
        for columns, reference_z_NV in reference_blocks:
            for stat, found in largest.items():
                found.add(_teacher_logits(stat, reference_z_NV, labels_N, columns, reference_z_NV))
    return {stat: found.least_N for stat, found in largest.items()}


def _cut(stat: TokenStat) -> bool:
    return isinstance(stat, Distilled) and stat.top is not None


def _teacher_logits(
    stat: TokenStat,
    z_NV: Tensor,
    labels_N: Tensor,
    columns: slice,
    reference_z_NV: Tensor | None,
    floor_N: Tensor | None = None,
) -> Tensor:
    """Of the distribution to imitate, in one block; minus infinity below the floor."""
    own = isinstance(stat, Distilled) and stat.teacher == "self"
    teacher_z_NV = z_NV if own else reference_z_NV
    assert teacher_z_NV is not None
    if not isinstance(stat, Distilled):
        return teacher_z_NV
    lowered_N = torch.full_like(teacher_z_NV[:, 0], -stat.lowered)
    lowered_NV = add_at(teacher_z_NV.clone(), labels_N, columns, lowered_N)
    return lowered_NV if floor_N is None else lowered_NV.masked_fill_(lowered_NV < floor_N[:, None], -inf)
