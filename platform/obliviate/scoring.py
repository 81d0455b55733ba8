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
from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20  # of float32 logits


class Stat(StrEnum):
    """What can be known of one token without keeping the distribution it came from."""

    LOGP = "logp"  # log p(y_t | y_<t)
    ENTROPY = "entropy"  # H(P_t)
    UNIFORM_KL = "uniform_kl"  # KL(U || P_t) = logsumexp(z) - mean(z) - log V
    REFERENCE_KL = "reference_kl"  # KL(P_ref,t || P_t)


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

    stats: Mapping[Stat, Tensor]
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


def token_statistics(
    hidden_ND: Tensor,
    labels_N: Tensor,
    head: Head,
    stats: Set[Stat],
    reference: tuple[Tensor, Head] | None = None,
) -> dict[Stat, Tensor]:
    """Each statistic as float32 [N], differentiable in the hidden states and in the head's weight and bias.

    `reference` is the frozen model's hidden states [N, D'] and head, needed by REFERENCE_KL alone; it gets no gradient.
    """
    if Stat.REFERENCE_KL in stats and reference is None:
        raise ValueError("REFERENCE_KL needs the reference model's hidden states and head")
    ordered = tuple(sorted(stats))
    values = _ChunkedStatistics.apply(  # type: ignore[no-untyped-call]
        hidden_ND, head.weight_VD, head.bias_V, labels_N, head.scale, head.softcap, ordered, reference
    )
    return dict(zip(ordered, values, strict=True))


def score_positions(
    hidden_BTD: Tensor,
    input_ids_BT: Tensor,
    wanted_BT: Tensor,
    head: Head,
    stats: Set[Stat],
    reference: tuple[Tensor, Head] | None = None,
) -> dict[Stat, Tensor]:
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
        stats: tuple[Stat, ...],
        reference: tuple[Tensor, Head] | None,
    ) -> tuple[Tensor, ...]:
        head = Head(weight_VD, bias_V, scale, softcap)
        n, vocabulary = hidden_ND.shape[0], weight_VD.shape[0]
        out = {stat: hidden_ND.new_zeros(n, dtype=torch.float32) for stat in stats}
        entropy_N = out.get(Stat.ENTROPY)
        if entropy_N is None:
            entropy_N = hidden_ND.new_zeros(n, dtype=torch.float32)
        step = _chunk_rows(vocabulary)
        for start in range(0, n, step):
            rows = slice(start, start + step)
            z_NV = head.logits(hidden_ND[rows])
            lse_N = z_NV.logsumexp(-1)
            if Stat.LOGP in out:
                out[Stat.LOGP][rows] = z_NV.gather(-1, labels_N[rows, None])[:, 0] - lse_N
            if Stat.UNIFORM_KL in out:
                out[Stat.UNIFORM_KL][rows] = lse_N - z_NV.mean(-1) - log(vocabulary)
            if Stat.ENTROPY in out:
                p_NV = (z_NV - lse_N[:, None]).exp()
                out[Stat.ENTROPY][rows] = lse_N - (p_NV * z_NV).sum(-1)
            if Stat.REFERENCE_KL in out:
                assert reference is not None
                q_NV = reference[1].logits(reference[0][rows]).log_softmax(-1)
                out[Stat.REFERENCE_KL][rows] = (q_NV.exp() * (q_NV - (z_NV - lse_N[:, None]))).sum(-1)
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, labels_N, entropy_N)
        ctx.scale, ctx.softcap, ctx.stats, ctx.reference = scale, softcap, stats, reference
        return tuple(out[stat] for stat in stats)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, labels_N, entropy_N = ctx.saved_tensors
        grad = dict(zip(ctx.stats, grads, strict=True))
        head = Head(weight_VD, bias_V, ctx.scale, ctx.softcap)
        n, vocabulary = hidden_ND.shape[0], weight_VD.shape[0]
        zero_N = hidden_ND.new_zeros(n, dtype=torch.float32)
        g_logp_N, g_entropy_N, g_uniform_N, g_reference_N = (
            grad.get(stat, zero_N) for stat in (Stat.LOGP, Stat.ENTROPY, Stat.UNIFORM_KL, Stat.REFERENCE_KL)
        )
        needs_hidden, needs_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        needs_bias = bias_V is not None and ctx.needs_input_grad[2]
        grad_hidden_ND = torch.empty_like(hidden_ND) if needs_hidden else None
        # float32: summed over chunks in bfloat16 it would lose the small contributions.
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_weight else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=torch.float32) if needs_bias else None
        step = _chunk_rows(vocabulary)
        for start in range(0, n, step):
            rows = slice(start, start + step)
            z_NV = head.logits(hidden_ND[rows])
            logp_NV = z_NV.log_softmax(-1)
            p_NV = logp_NV.exp()
            # d logp = onehot - p;  d KL(U||P) = p - 1/V;  d KL(Q||P) = p - q;  d H = -p (log p + H)
            coefficient_N = (g_uniform_N + g_reference_N - g_logp_N)[rows, None]
            if Stat.ENTROPY in grad:
                dz_NV = p_NV * (coefficient_N - g_entropy_N[rows, None] * (logp_NV + entropy_N[rows, None]))
            else:
                dz_NV = p_NV * coefficient_N
            if Stat.LOGP in grad:
                dz_NV.scatter_add_(-1, labels_N[rows, None], g_logp_N[rows, None])
            if Stat.UNIFORM_KL in grad:
                dz_NV -= g_uniform_N[rows, None] / vocabulary
            if Stat.REFERENCE_KL in grad:
                q_NV = ctx.reference[1].logits(ctx.reference[0][rows]).softmax(-1)
                dz_NV -= g_reference_N[rows, None] * q_NV
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
