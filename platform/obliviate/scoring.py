"""From hidden states and the lm_head to per-token statistics, without ever holding [batch, length, vocabulary].

The only file that shifts labels: the token at position t is predicted by the hidden state at t - 1.
The lm_head is applied to the wanted positions alone, a block of the vocabulary at a time; softmax and means are
gathered from block to block (Milakov and Gimelshein 2018, arXiv:1805.02867), and the backward pass recomputes each
block's logits. Work per token: three matrix products with the head forward and backward, four with the recomputation;
memory: a few blocks of logits instead of all. Blocks of the vocabulary rather than of positions, because the products
stay large and a block's part of the head's gradient is complete when the block is done.

Shapes: B texts, T tokens, D hidden size, V vocabulary, N wanted positions. Log-probabilities are in nats, float32.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from math import inf, log
from typing import Any, Literal

import torch
from torch import Tensor

from obliviate.head import Head

BLOCK_BYTES = 32 * 2**20  # of float32 logits


class Stat(StrEnum):
    """What can be known of one token without keeping the distribution P_t = softmax(z) it came from."""

    LOGP = "logp"  # log p(y_t | y_<t)
    ENTROPY = "entropy"  # H(P_t)
    UNIFORM_KL = "uniform_kl"  # KL(U || P_t) = logsumexp(z) - mean(z) - log V
    REFERENCE_KL = "reference_kl"  # KL(P_ref,t || P_t)
    LOGIT_GAP = "logit_gap"  # max(z) - mean(z)


@dataclass(frozen=True)
class Distilled:
    """Cross-entropy from a teacher's distribution to P_t, once the teacher's logit of y_t is lowered by `lowered`.

    At infinity y_t is left out of the teacher's distribution. The teacher gets no gradient: it is the frozen reference,
    or the model itself as it is at this moment.
    """

    teacher: Literal["reference", "self"]
    lowered: float  # nats

    def __str__(self) -> str:
        return f"distilled_{self.teacher}_{self.lowered}"


@dataclass(frozen=True)
class Activation:
    """What a layer puts out at the token itself, not at the one before: a vector [D].

    `layer` is a decoder layer's number, from 0, or the name of any module of the model, as "model.layers.7".
    """

    layer: int | str

    def __str__(self) -> str:
        return f"activation_{self.layer}"


TokenStat = Stat | Distilled  # a number for each token, of the distribution that predicts it
AnyStat = TokenStat | Activation


def needs_reference(stat: AnyStat) -> bool:
    """Whether the statistic compares with the frozen model's distribution."""
    return stat is Stat.REFERENCE_KL or (isinstance(stat, Distilled) and stat.teacher == "reference")


@dataclass(frozen=True)
class TokenScores:
    """Statistics of the tokens of B texts; a statistic is 0 where its position was not asked for.

    `answer_BT` marks the tokens of the answer, its end-of-turn token included; `sequence_BT` every token that has a
    predecessor (prompt and answer, and padding where a method asked for it).
    """

    stats: Mapping[AnyStat, Tensor]
    answer_BT: Tensor
    sequence_BT: Tensor

    @property
    def logp_BT(self) -> Tensor:
        return self.stats[Stat.LOGP]

    @property
    def logp_B(self) -> Tensor:
        """Summed over the answer's tokens, nats."""
        return (self.stats[Stat.LOGP] * self.answer_BT).sum(-1)

    @property
    def tokens_B(self) -> Tensor:
        """Answer tokens of each text."""
        return self.answer_BT.sum(-1)

    def activation_BTD(self, layer: int | str) -> Tensor:
        """float32, whatever the model computes in: squared distances of bfloat16 would be coarse."""
        return self.stats[Activation(layer)].float()


def token_statistics(
    hidden_ND: Tensor,
    labels_N: Tensor,
    head: Head,
    stats: Set[TokenStat],
    reference: tuple[Tensor, Head] | None = None,
) -> dict[TokenStat, Tensor]:
    """Each statistic as float32 [N], differentiable in the hidden states and in the head's weight and bias.

    `reference` is the frozen model's hidden states [N, D'] and head, for the statistics that `needs_reference`; it gets
    no gradient.
    """
    ordered = tuple(sorted(stats, key=str))
    if reference is None and (of_reference := [str(stat) for stat in ordered if needs_reference(stat)]):
        raise ValueError(f"{', '.join(of_reference)}: needs the reference model's hidden states and head")
    values = _BlockedStatistics.apply(  # type: ignore[no-untyped-call]
        hidden_ND, head.weight_VD, head.bias_V, labels_N, head.scale, head.softcap, ordered, reference
    )
    return dict(zip(ordered, values, strict=True))


def score_positions(
    hidden_BTD: Tensor,
    input_ids_BT: Tensor,
    wanted_BT: Tensor,
    head: Head,
    stats: Set[TokenStat],
    reference: tuple[Tensor, Head] | None = None,
) -> dict[TokenStat, Tensor]:
    """Statistics of the tokens at `wanted_BT`, as [B, T], 0 elsewhere. Position 0 has no predecessor: never wanted.

    The reference's hidden states are those of the wanted positions, in row-major order: [N, D'].
    """
    assert not wanted_BT[:, 0].any(), "the first token has no predecessor to be predicted from"
    hidden_ND = hidden_BTD[:, :-1][wanted_BT[:, 1:]]
    values = token_statistics(hidden_ND, input_ids_BT[wanted_BT], head, stats, reference)
    return {
        stat: torch.zeros(input_ids_BT.shape, device=value_N.device).masked_scatter(wanted_BT, value_N)
        for stat, value_N in values.items()
    }


def wanted_hidden(hidden_BTD: Tensor, wanted_BT: Tensor) -> Tensor:
    """The hidden states that predict the wanted tokens, [N, D] in row-major order: what a reference must keep."""
    return hidden_BTD[:, :-1][wanted_BT[:, 1:]]


def greedy_matches(hidden_ND: Tensor, labels_N: Tensor, head: Head) -> Tensor:
    """Whether each label is the distribution's argmax (the first, where several are largest), bool [N]."""
    gathered = _Statistics((Stat.LOGIT_GAP,), labels_N)
    for columns in _blocks(len(head.weight_VD), len(labels_N)):
        gathered.add(head.block(columns).logits(hidden_ND), columns, None)
    return gathered.constants()[Stat.LOGIT_GAP] == labels_N


def _blocks(vocabulary: int, positions: int) -> Iterator[slice]:
    """The columns of each block, so that its logits take BLOCK_BYTES."""
    width = max(1, BLOCK_BYTES // (4 * max(1, positions)))
    return (slice(first, min(first + width, vocabulary)) for first in range(0, vocabulary, width))


def _compares(stat: TokenStat) -> bool:
    """Whether the statistic compares with a teacher's distribution."""
    return stat is Stat.REFERENCE_KL or isinstance(stat, Distilled)


class _Softmax:
    """A distribution over the vocabulary, met block by block: its logsumexp, and the mean of other values under it."""

    def __init__(self, like_N: Tensor) -> None:
        # Finite: a block whose logits are all minus infinity adds nothing, where -inf - -inf would be NaN.
        self._top_N = torch.full_like(like_N, torch.finfo(torch.float32).min)
        self._total_N, self._weighted_N = torch.zeros_like(like_N), torch.zeros_like(like_N)

    def add(self, z_NV: Tensor, values_NV: Tensor | None = None) -> None:
        top_N = torch.maximum(self._top_N, z_NV.amax(-1))
        weight_NV = (z_NV - top_N[:, None]).exp_()
        rescale_N = (self._top_N - top_N).exp()
        self._total_N = self._total_N * rescale_N + weight_NV.sum(-1)
        if values_NV is not None:
            self._weighted_N = self._weighted_N * rescale_N + weight_NV.mul_(values_NV).sum(-1)
        self._top_N = top_N

    @property
    def lse_N(self) -> Tensor:
        return self._top_N + self._total_N.log()

    @property
    def mean_N(self) -> Tensor:
        return self._weighted_N / self._total_N


class _Statistics:
    """Gathers the statistics of N positions from the blocks of their logits.

    `constants` holds, of each statistic, what its gradient needs beside the logits: the entropy itself, the logsumexp
    of a teacher's logits, the place of the largest logit.
    """

    def __init__(self, stats: Sequence[TokenStat], labels_N: Tensor) -> None:
        self._stats, self._labels_N = stats, labels_N
        self._zeros_N = torch.zeros(labels_N.shape, device=labels_N.device)
        self._model = _Softmax(self._zeros_N)
        self._teachers = {stat: _Softmax(self._zeros_N) for stat in stats if _compares(stat)}
        self._sum_N, self._label_z_N = self._zeros_N, self._zeros_N
        self._largest_N, self._argmax_N = torch.full_like(self._zeros_N, -inf), torch.zeros_like(labels_N)
        self._vocabulary = 0

    def add(self, z_NV: Tensor, columns: slice, reference_z_NV: Tensor | None) -> None:
        self._vocabulary += z_NV.shape[-1]
        self._model.add(z_NV, z_NV if Stat.ENTROPY in self._stats else None)
        for stat, teacher in self._teachers.items():
            teacher_z_NV = _teacher_logits(stat, z_NV, self._labels_N, columns, reference_z_NV)
            # KL from differences: both means alone are large, and nearly cancel where the distributions are close.
            teacher.add(teacher_z_NV, teacher_z_NV - z_NV if stat is Stat.REFERENCE_KL else z_NV)
        if Stat.LOGP in self._stats:
            index_N, inside_N = _place(self._labels_N, columns)
            found_N = z_NV.gather(-1, index_N[:, None])[:, 0]
            self._label_z_N = torch.where(inside_N, found_N, self._label_z_N)
        if Stat.UNIFORM_KL in self._stats or Stat.LOGIT_GAP in self._stats:
            self._sum_N = self._sum_N + z_NV.sum(-1)
        if Stat.LOGIT_GAP in self._stats:
            largest_N, argmax_N = z_NV.max(-1)
            self._argmax_N = torch.where(largest_N > self._largest_N, argmax_N + columns.start, self._argmax_N)
            self._largest_N = torch.maximum(self._largest_N, largest_N)

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
            case Stat.LOGIT_GAP:
                return self._largest_N - self._sum_N / self._vocabulary
            case Distilled():
                return self.lse_N - self._teachers[stat].mean_N

    def constants(self) -> dict[TokenStat, Tensor]:
        found = {stat: teacher.lse_N for stat, teacher in self._teachers.items()}
        if Stat.ENTROPY in self._stats:
            found[Stat.ENTROPY] = self._value(Stat.ENTROPY)
        if Stat.LOGIT_GAP in self._stats:
            found[Stat.LOGIT_GAP] = self._argmax_N
        return found


def _logit_gradient(
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
    d (max - mean) = onehot(argmax) - 1/V.
    """
    constant_N = torch.zeros_like(lse_N)
    of_p_N = torch.zeros_like(lse_N)
    for stat, grad_N in grads.items():
        if stat is Stat.LOGP:
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
            _add_at(dz_NV, labels_N, columns, grad_N)
        elif stat is Stat.LOGIT_GAP:
            _add_at(dz_NV, constants[stat], columns, grad_N)
        elif _compares(stat):
            teacher_z_NV = _teacher_logits(stat, z_NV, labels_N, columns, reference_z_NV)
            dz_NV -= (teacher_z_NV - constants[stat][:, None]).exp_().mul_(grad_N[:, None])
    return dz_NV


def _teacher_logits(
    stat: TokenStat, z_NV: Tensor, labels_N: Tensor, columns: slice, reference_z_NV: Tensor | None
) -> Tensor:
    """Of the distribution to imitate, in one block."""
    own = isinstance(stat, Distilled) and stat.teacher == "self"
    teacher_z_NV = z_NV if own else reference_z_NV
    assert teacher_z_NV is not None
    if not isinstance(stat, Distilled):
        return teacher_z_NV
    lowered_N = torch.full_like(teacher_z_NV[:, 0], -stat.lowered)
    return _add_at(teacher_z_NV.clone(), labels_N, columns, lowered_N)


def _place(tokens_N: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Where in the block each token's column is, and whether it is there at all."""
    index_N = tokens_N - columns.start
    width = columns.stop - columns.start
    return index_N.clamp(0, width - 1), (index_N >= 0) & (index_N < width)


def _add_at(block_NV: Tensor, tokens_N: Tensor, columns: slice, values_N: Tensor) -> Tensor:
    """In place: each row's value at its token's column, where the block has it."""
    index_N, inside_N = _place(tokens_N, columns)
    return block_NV.scatter_add_(-1, index_N[:, None], torch.where(inside_N, values_N, 0)[:, None])


def _reference_logits(
    reference: tuple[Tensor, Head] | None, columns: slice, stats: Sequence[TokenStat]
) -> Tensor | None:
    """Those of the block, where a statistic needs them."""
    if reference is None or not any(map(needs_reference, stats)):
        return None
    hidden_ND, head = reference
    return head.block(columns).logits(hidden_ND)


class _BlockedStatistics(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_N: Tensor,
        scale: float,
        softcap: float | None,
        stats: tuple[TokenStat, ...],
        reference: tuple[Tensor, Head] | None,
    ) -> tuple[Tensor, ...]:
        gathered = _Statistics(stats, labels_N)
        head = Head(weight_VD, bias_V, scale, softcap)
        for columns in _blocks(len(weight_VD), len(labels_N)):
            z_NV = head.block(columns).logits(hidden_ND)
            gathered.add(z_NV, columns, _reference_logits(reference, columns, stats))
        values, constants = gathered.values(), gathered.constants()
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, labels_N, gathered.lse_N, *constants.values())
        ctx.scale, ctx.softcap, ctx.stats, ctx.reference = scale, softcap, stats, reference
        ctx.of_constants = tuple(constants)
        return tuple(values[stat] for stat in stats)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, labels_N, lse_N, *constants = ctx.saved_tensors
        head = Head(weight_VD, bias_V, ctx.scale, ctx.softcap)
        of_stat = dict(zip(ctx.stats, grads, strict=True))
        kept = dict(zip(ctx.of_constants, constants, strict=True))
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        compute_ND = hidden_ND.to(weight_VD.dtype)
        # float32: summed over blocks in bfloat16 it would lose the small contributions.
        grad_hidden_ND = torch.zeros_like(hidden_ND, dtype=torch.float32) if needs_hidden else None
        # A block's part of the head's gradient is whole at once: no sum over blocks, no float32 copy.
        grad_weight_VD = torch.empty_like(weight_VD) if needs_weight else None
        grad_bias_V = torch.empty_like(bias_V) if needs_bias and bias_V is not None else None
        for columns in _blocks(len(weight_VD), len(labels_N)):
            z_NV = head.block(columns).logits(compute_ND)
            reference_z_NV = _reference_logits(ctx.reference, columns, ctx.stats)
            dz_NV = _logit_gradient(z_NV, labels_N, columns, of_stat, lse_N, kept, len(weight_VD), reference_z_NV)
            if ctx.softcap is not None:
                dz_NV *= 1 - (z_NV / ctx.softcap).square()
            if ctx.scale != 1.0:
                dz_NV *= ctx.scale
            if grad_bias_V is not None:
                grad_bias_V[columns] = dz_NV.sum(0)
            dz_NV = dz_NV.to(weight_VD.dtype)
            if grad_hidden_ND is not None:
                grad_hidden_ND += dz_NV @ weight_VD[columns]
            if grad_weight_VD is not None:
                torch.mm(dz_NV.T, compute_ND, out=grad_weight_VD[columns])
        grad_hidden_ND = None if grad_hidden_ND is None else grad_hidden_ND.to(hidden_ND.dtype)
        return (grad_hidden_ND, grad_weight_VD, grad_bias_V, None, None, None, None, None)
