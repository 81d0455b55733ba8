"""From hidden states and the lm_head to per-token statistics, without holding [batch, length, vocabulary].

The only file that shifts labels: the token at position t is predicted by the hidden state at t - 1.
The lm_head is applied to the wanted positions alone, a block of the vocabulary at a time; softmax and means are
gathered from block to block (Milakov and Gimelshein 2018, arXiv:1805.02867), and the backward pass recomputes each
block's logits, unless all of them are small enough to be kept. Work per token: three matrix products with the head
forward and backward, four with the recomputation; memory: a few blocks of logits instead of all. Blocks of the
vocabulary rather than of positions, because the products stay large and a block's part of the head's gradient is
complete when the block is done.

Shapes: B texts, T tokens, D hidden size, V vocabulary, N wanted positions, U different ones. Log-probabilities are in
nats, float32.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from math import inf, log
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from obliviate.head import AnyHead, Head
from obliviate.vocabulary import Largest, Softmax, add_at, log_ratio_to_mixture, place

BLOCK_BYTES = 32 * 2**20  # of float32 logits
KEPT_BYTES = 128 * 2**20  # of logits in the head's type, up to which they are kept for the backward pass


class Stat(StrEnum):
    """What can be known of one token without keeping the distribution P_t = softmax(z) it came from."""

    LOGP = "logp"  # log p(y_t | y_<t)
    ENTROPY = "entropy"  # H(P_t)
    UNIFORM_KL = "uniform_kl"  # KL(U || P_t) = logsumexp(z) - mean(z) - log V
    REFERENCE_KL = "reference_kl"  # KL(P_ref,t || P_t)
    REFERENCE_JS = "reference_js"  # Jensen-Shannon divergence of P_ref,t and P_t, at most log 2
    LOGIT_GAP = "logit_gap"  # max(z) - mean(z)
    RIVAL = "rival"  # log p of the likeliest token but y_t
    LOG_VOCABULARY = "log_vocabulary"  # log V


@dataclass(frozen=True)
class Distilled:
    """Cross-entropy from a teacher's distribution to P_t, once the teacher's logit of y_t is lowered by `lowered`.

    At infinity y_t is left out of the teacher's distribution. The teacher gets no gradient: it is the frozen reference,
    or the model itself as it is at this moment. With `top`, the reference's distribution is that of its so many
    likeliest tokens alone, once y_t is lowered: one more product with its head.
    """

    teacher: Literal["reference", "self"]
    lowered: float  # nats
    top: int | None = None  # None: all tokens

    def __post_init__(self) -> None:
        assert self.top is None or self.teacher == "reference", "the model's own logits are met only once"

    def __str__(self) -> str:
        return f"distilled_{self.teacher}_{self.lowered}" + ("" if self.top is None else f"_top_{self.top}")


@dataclass(frozen=True)
class Generic:
    """log p of the token that the generic prediction finds likeliest: z_ref - alpha relu(z_reinforced - z_ref), of the
    frozen reference and of the same model after it has learned the texts (obliviate.head.GenericHead)."""

    alpha: float

    def __str__(self) -> str:
        return f"generic_{self.alpha}"


@dataclass(frozen=True)
class Steered:
    """Cross-entropy to P_t from the frozen reference's distribution, steered towards what it says behind one prompt and
    away from what it says behind another: z_ref + eta (z_novice - z_expert) (obliviate.head.SteeredHead)."""

    novice: str
    expert: str
    eta: float

    def __str__(self) -> str:
        return f"steered_{self.eta}_{self.novice}_{self.expert}"


@dataclass(frozen=True)
class Activation:
    """What a layer puts out at the token itself, not at the one before: a vector [D].

    `layer` is a decoder layer's number, from 0, or the name of any module of the model, as "model.layers.7". So many
    of the leading components of what it puts out for the forget set are taken out (obliviate.train.components).
    """

    layer: int | str
    without: int = 0

    def __str__(self) -> str:
        return f"activation_{self.layer}" + (f"_without_{self.without}" if self.without else "")


TokenStat = Stat | Distilled | Generic | Steered  # a number for each token, of the distribution that predicts it
AnyStat = TokenStat | Activation


def needs_reference(stat: AnyStat) -> bool:
    """Whether the statistic compares with the frozen model's distribution."""
    return (
        stat in (Stat.REFERENCE_KL, Stat.REFERENCE_JS)
        or isinstance(stat, Generic | Steered)
        or (isinstance(stat, Distilled) and stat.teacher == "reference")
    )


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

    def activation_BTD(self, layer: int | str, without: int = 0) -> Tensor:
        """float32, whatever the model computes in: squared distances of bfloat16 would be coarse."""
        return self.stats[Activation(layer, without)].float()


def token_statistics(
    hidden_ND: Tensor,
    labels_N: Tensor,
    head: Head,
    stats: Set[TokenStat],
    reference: tuple[Tensor, AnyHead] | None = None,
) -> dict[TokenStat, Tensor]:
    """Each statistic as float32 [N], differentiable in the hidden states and in the head's weight and bias.

    `reference` is the frozen model's hidden states [N, D'] and head, for the statistics that `needs_reference`; it gets
    no gradient.
    """
    ordered = tuple(sorted(stats, key=str))
    kept_bytes = len(labels_N) * len(head.weight_VD) * head.weight_VD.element_size()
    keeps = torch.is_grad_enabled() and kept_bytes <= KEPT_BYTES
    if reference is None and (of_reference := [str(stat) for stat in ordered if needs_reference(stat)]):
        raise ValueError(f"{', '.join(of_reference)}: needs the reference model's hidden states and head")
    values = _BlockedStatistics.apply(  # type: ignore[no-untyped-call]
        hidden_ND, head.weight_VD, head.bias_V, labels_N, head.scale, head.softcap, ordered, reference, keeps
    )
    return dict(zip(ordered, values, strict=True))


def score_positions(
    hidden_BTD: Tensor,
    input_ids_BT: Tensor,
    wanted_BT: Tensor,
    head: Head,
    stats: Set[TokenStat],
    reference: tuple[Tensor, AnyHead] | None = None,
    alike_BT: Tensor | None = None,
) -> dict[TokenStat, Tensor]:
    """Statistics of the tokens at `wanted_BT`, as [B, T], 0 elsewhere. Position 0 has no predecessor: never wanted.

    The reference's hidden states are those of the wanted positions, in row-major order: [N, D']. `alike_BT` is a number
    for each token, the same where two texts agree from their beginning up to it; such tokens are scored once.
    """
    assert not wanted_BT[:, 0].any(), "the first token has no predecessor to be predicted from"
    place_N = wanted_BT.flatten().nonzero()[:, 0]
    first_U, which_N = _first_of_each(place_N if alike_BT is None else alike_BT.flatten()[place_N])
    place_U = place_N[first_U]
    hidden_UD = F.embedding(place_U - 1, hidden_BTD.flatten(0, 1))
    if reference is not None:
        reference = (reference[0][first_U], reference[1])
    values = token_statistics(hidden_UD, input_ids_BT.flatten()[place_U], head, stats, reference)
    # Gathered as embeddings are, because their gradients add up in the same order every time.
    return {
        stat: torch.zeros(input_ids_BT.shape, device=value_U.device).masked_scatter(
            wanted_BT, F.embedding(which_N, value_U[:, None])
        )
        for stat, value_U in values.items()
    }


def _first_of_each(number_N: Tensor) -> tuple[Tensor, Tensor]:
    """Of each of the U numbers its first place, [U], and which of them is at each place, [N]."""
    _, which_N, count_U = number_N.unique(return_inverse=True, return_counts=True)
    return which_N.argsort(stable=True)[count_U.cumsum(0) - count_U], which_N


def wanted_hidden(hidden_BTD: Tensor, wanted_BT: Tensor) -> Tensor:
    """The hidden states that predict the wanted tokens, [N, D] in row-major order: what a reference must keep."""
    return hidden_BTD[:, :-1][wanted_BT[:, 1:]]


def _blocks(vocabulary: int, positions: int) -> Iterator[slice]:
    """The columns of each block, so that its logits take BLOCK_BYTES."""
    width = max(1, BLOCK_BYTES // (4 * max(1, positions)))
    return (slice(first, min(first + width, vocabulary)) for first in range(0, vocabulary, width))


def _compares(stat: TokenStat) -> bool:
    """Whether the statistic is a cross-entropy from a teacher's distribution, less at most a constant."""
    return stat is Stat.REFERENCE_KL or isinstance(stat, Distilled | Steered)


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


def _reference_logits(
    reference: tuple[Tensor, AnyHead] | None, columns: slice, stats: Sequence[TokenStat]
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
        reference: tuple[Tensor, AnyHead] | None,
        keeps: bool,
    ) -> tuple[Tensor, ...]:
        blocks = list(_blocks(len(weight_VD), len(labels_N)))
        of_reference = () if reference is None else (
            (columns, reference[1].block(columns).logits(reference[0])) for columns in blocks
        )  # fmt: skip
        gathered = Statistics(stats, labels_N, floors(stats, labels_N, of_reference))
        head = Head(weight_VD, bias_V, scale, softcap)
        products = []
        for columns in blocks:
            block = head.block(columns)
            product_NV = block.product(hidden_ND)
            gathered.add(block.logits_of(product_NV), columns, _reference_logits(reference, columns, stats))
            if keeps:
                products.append(product_NV)
        if Stat.REFERENCE_JS in stats:
            assert reference is not None
            for columns in blocks:
                z_NV, other = head.block(columns).logits(hidden_ND), reference[1].block(columns).logits(reference[0])
                gathered.add_to_divergence(z_NV, other)
        values, constants = gathered.values(), gathered.constants()
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, labels_N, gathered.lse_N, *constants.values(), *products)
        ctx.scale, ctx.softcap, ctx.stats, ctx.reference = scale, softcap, stats, reference
        ctx.of_constants = tuple(constants)
        return tuple(values[stat] for stat in stats)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, labels_N, lse_N, *others = ctx.saved_tensors
        head = Head(weight_VD, bias_V, ctx.scale, ctx.softcap)
        of_stat = dict(zip(ctx.stats, grads, strict=True))
        constants = dict(zip(ctx.of_constants, others, strict=False))
        products = others[len(constants) :]
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        compute_ND = hidden_ND.to(weight_VD.dtype)
        # float32: summed over blocks in bfloat16 it would lose the small contributions.
        grad_hidden_ND = torch.zeros_like(hidden_ND, dtype=torch.float32) if needs_hidden else None
        # A block's part of the head's gradient is whole at once: no sum over blocks, no float32 copy.
        grad_weight_VD = torch.empty_like(weight_VD) if needs_weight else None
        grad_bias_V = torch.empty_like(bias_V) if needs_bias and bias_V is not None else None
        for index, columns in enumerate(_blocks(len(weight_VD), len(labels_N))):
            block = head.block(columns)
            z_NV = block.logits_of(products[index] if products else block.product(compute_ND))
            reference_z_NV = _reference_logits(ctx.reference, columns, ctx.stats)
            dz_NV = logit_gradient(z_NV, labels_N, columns, of_stat, lse_N, constants, len(weight_VD), reference_z_NV)
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
        return (grad_hidden_ND, grad_weight_VD, grad_bias_V, *[None] * 6)
