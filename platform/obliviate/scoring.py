"""From hidden states and the lm_head to per-token statistics, without ever holding [batch, length, vocabulary].

The only file that shifts labels: the token at position t is predicted by the hidden state at t - 1.
The lm_head is applied to the wanted positions alone, a chunk of them at a time; the backward pass recomputes
each chunk's logits. Work per token: three matrix products with the head forward and backward, four with the
recomputation; memory: one chunk of logits instead of all.

Shapes: B texts, T tokens, D hidden size, V vocabulary, N wanted positions. Log-probabilities are in nats, float32.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from enum import StrEnum
from math import log
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20  # of float32 logits


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
    """What decoder layer number `layer`, from 0, puts out at the token itself, not at the one before: a vector [D]."""

    layer: int

    def __str__(self) -> str:
        return f"activation_{self.layer}"


TokenStat = Stat | Distilled  # a number for each token, of the distribution that predicts it
AnyStat = TokenStat | Activation


def needs_reference(stat: AnyStat) -> bool:
    """Whether the statistic compares with the frozen model's distribution."""
    return stat is Stat.REFERENCE_KL or (isinstance(stat, Distilled) and stat.teacher == "reference")


class Head(NamedTuple):
    """The output layer: logits = softcap * tanh(scale * (h W^T + b) / softcap), the tanh only where softcap is set."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """float32 [N, V]."""
        z_NV = (hidden_ND.to(self.weight_VD.dtype) @ self.weight_VD.T).float()
        if self.bias_V is not None:
            z_NV = z_NV + self.bias_V.float()
        if self.scale != 1.0:
            z_NV = z_NV * self.scale
        return z_NV if self.softcap is None else torch.tanh(z_NV / self.softcap) * self.softcap


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

    def activation_BTD(self, layer: int) -> Tensor:
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
    values = _ChunkedStatistics.apply(  # type: ignore[no-untyped-call]
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
    """Whether each label is the distribution's argmax, bool [N]."""
    step = _chunk_rows(head.weight_VD.shape[0])
    parts = [head.logits(h).argmax(-1) == y for h, y in zip(hidden_ND.split(step), labels_N.split(step), strict=True)]
    return torch.cat(parts) if parts else labels_N.bool()


def _chunk_rows(vocabulary: int) -> int:
    return max(1, CHUNK_BYTES // (4 * vocabulary))


def _values(
    z_NV: Tensor, labels_N: Tensor, stats: tuple[TokenStat, ...], reference_z_NV: Tensor | None
) -> dict[TokenStat, Tensor]:
    """The statistics of one chunk of logits, [N] each."""
    lse_N = z_NV.logsumexp(-1)
    values: dict[TokenStat, Tensor] = {}
    for stat in stats:
        match stat:
            case Stat.LOGP:
                values[stat] = z_NV.gather(-1, labels_N[:, None])[:, 0] - lse_N
            case Stat.UNIFORM_KL:
                values[stat] = lse_N - z_NV.mean(-1) - log(z_NV.shape[-1])
            case Stat.ENTROPY:
                p_NV = (z_NV - lse_N[:, None]).exp()
                values[stat] = lse_N - (p_NV * z_NV).sum(-1)
            case Stat.REFERENCE_KL:
                assert reference_z_NV is not None
                logq_NV = reference_z_NV.log_softmax(-1)
                values[stat] = (logq_NV.exp() * (logq_NV - (z_NV - lse_N[:, None]))).sum(-1)
            case Stat.LOGIT_GAP:
                values[stat] = z_NV.amax(-1) - z_NV.mean(-1)
            case Distilled():
                values[stat] = lse_N - (_teacher(stat, z_NV, labels_N, reference_z_NV) * z_NV).sum(-1)
    return values


def _logit_gradient(
    z_NV: Tensor,
    labels_N: Tensor,
    grads: Mapping[TokenStat, Tensor],
    entropy_N: Tensor | None,
    reference_z_NV: Tensor | None,
) -> Tensor:
    """Of the statistics of one chunk, weighted by `grads` [N], in its logits: [N, V].

    d logp = onehot - p;  d KL(U||P) = p - 1/V;  d KL(Q||P) = d CE(Q, P) = p - q;  d H = -p (log p + H);
    d (max - mean) = onehot(argmax) - 1/V.
    """
    logp_NV = z_NV.log_softmax(-1)
    coefficient_N = z_NV.new_zeros(z_NV.shape[0])  # of p
    for stat, grad_N in grads.items():
        if stat is Stat.LOGP:
            coefficient_N = coefficient_N - grad_N
        elif stat not in (Stat.ENTROPY, Stat.LOGIT_GAP):
            coefficient_N = coefficient_N + grad_N
    if Stat.ENTROPY in grads:
        assert entropy_N is not None
        surplus_NV = grads[Stat.ENTROPY][:, None] * (logp_NV + entropy_N[:, None])
        dz_NV = logp_NV.exp() * (coefficient_N[:, None] - surplus_NV)
    else:
        dz_NV = logp_NV.exp_() * coefficient_N[:, None]
    for stat, grad_N in grads.items():
        match stat:
            case Stat.LOGP:
                dz_NV.scatter_add_(-1, labels_N[:, None], grad_N[:, None])
            case Stat.UNIFORM_KL:
                dz_NV -= grad_N[:, None] / z_NV.shape[-1]
            case Stat.REFERENCE_KL:
                assert reference_z_NV is not None
                dz_NV -= grad_N[:, None] * reference_z_NV.softmax(-1)
            case Stat.LOGIT_GAP:
                dz_NV -= grad_N[:, None] / z_NV.shape[-1]
                dz_NV.scatter_add_(-1, z_NV.argmax(-1, keepdim=True), grad_N[:, None])
            case Distilled():
                dz_NV -= grad_N[:, None] * _teacher(stat, z_NV, labels_N, reference_z_NV)
    return dz_NV


def _teacher(stat: Distilled, z_NV: Tensor, labels_N: Tensor, reference_z_NV: Tensor | None) -> Tensor:
    """The distribution to imitate, [N, V]."""
    teacher_z_NV = z_NV if stat.teacher == "self" else reference_z_NV
    assert teacher_z_NV is not None
    index = labels_N[:, None]
    return teacher_z_NV.scatter(-1, index, teacher_z_NV.gather(-1, index) - stat.lowered).softmax(-1)


def _reference_logits(
    reference: tuple[Tensor, Head] | None, rows: slice, stats: tuple[TokenStat, ...]
) -> Tensor | None:
    """Those of the chunk, where a statistic needs them."""
    if reference is None or not any(map(needs_reference, stats)):
        return None
    hidden_ND, head = reference
    return head.logits(hidden_ND[rows])


class _ChunkedStatistics(torch.autograd.Function):
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
        head = Head(weight_VD, bias_V, scale, softcap)
        n = hidden_ND.shape[0]
        out = {stat: hidden_ND.new_zeros(n, dtype=torch.float32) for stat in stats}
        step = _chunk_rows(weight_VD.shape[0])
        for start in range(0, n, step):
            rows = slice(start, start + step)
            z_NV, reference_z_NV = head.logits(hidden_ND[rows]), _reference_logits(reference, rows, stats)
            for stat, value_N in _values(z_NV, labels_N[rows], stats, reference_z_NV).items():
                out[stat][rows] = value_N
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, labels_N, out.get(Stat.ENTROPY))
        ctx.scale, ctx.softcap, ctx.stats, ctx.reference = scale, softcap, stats, reference
        return tuple(out[stat] for stat in stats)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, labels_N, entropy_N = ctx.saved_tensors
        head = Head(weight_VD, bias_V, ctx.scale, ctx.softcap)
        n = hidden_ND.shape[0]
        needs_hidden, needs_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        needs_bias = bias_V is not None and ctx.needs_input_grad[2]
        grad_hidden_ND = torch.empty_like(hidden_ND) if needs_hidden else None
        # float32: summed over chunks in bfloat16 it would lose the small contributions.
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_weight else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=torch.float32) if needs_bias else None
        step = _chunk_rows(weight_VD.shape[0])
        for start in range(0, n, step):
            rows = slice(start, start + step)
            z_NV = head.logits(hidden_ND[rows])
            dz_NV = _logit_gradient(
                z_NV,
                labels_N[rows],
                {stat: grad_N[rows] for stat, grad_N in zip(ctx.stats, grads, strict=True)},
                None if entropy_N is None else entropy_N[rows],
                _reference_logits(ctx.reference, rows, ctx.stats),
            )
            if ctx.softcap is not None:
                dz_NV *= 1 - (z_NV / ctx.softcap).square()
            dz_NV = dz_NV * ctx.scale if ctx.scale != 1.0 else dz_NV
            if grad_bias_V is not None:
                grad_bias_V += dz_NV.sum(0)
            dz_NV = dz_NV.to(weight_VD.dtype)
            if grad_hidden_ND is not None:
                grad_hidden_ND[rows] = (dz_NV @ weight_VD).to(hidden_ND.dtype)
            if grad_weight_VD is not None:
                grad_weight_VD += dz_NV.T @ hidden_ND[rows].to(weight_VD.dtype)
        return (
            grad_hidden_ND,
            None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype),
            None if grad_bias_V is None or bias_V is None else grad_bias_V.to(bias_V.dtype),
            None,
            None,
            None,
            None,
            None,
        )
