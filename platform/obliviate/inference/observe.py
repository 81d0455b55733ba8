"""What evaluation wants of each token of an answer, without ever holding [batch, length, vocabulary].

Shapes: B texts, T tokens, D hidden size, N answer tokens, V vocabulary. Numbers are float32, in nats.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from obliviate.head import Head

CHUNK_BYTES = 64 * 2**20  # of float32 logits


class Observed(NamedTuple):
    """[N] each; `mean_N` and `variance_N` are those of log p(v) under p, `rank_N` counts from 1, the likeliest token;
    None where they were not asked for."""

    logp_N: Tensor
    greedy_N: Tensor  # whether the token is the distribution's argmax
    mean_N: Tensor | None = None
    variance_N: Tensor | None = None
    rank_N: Tensor | None = None


def continuation_hidden(prompt_last_BD: Tensor, hidden_BTD: Tensor, lengths_B: Tensor) -> Tensor:
    """The hidden states that predict the tokens of continuations of these lengths, [N, D] in row-major order.

    The prompt's last state predicts the first token; `hidden_BTD` are the states of the continuations' own tokens but
    the last, which predicts nothing.
    """
    all_BTD = torch.cat([prompt_last_BD[:, None], hidden_BTD], dim=1)
    wanted_BT = torch.arange(all_BTD.shape[1], device=lengths_B.device) < lengths_B[:, None]
    return all_BTD[wanted_BT]


@torch.no_grad()
def observe(hidden_ND: Tensor, labels_N: Tensor, head: Head, *, moments: bool = False) -> Observed:
    """All of it from one product with the head, a chunk of positions at a time."""
    n, device = len(labels_N), labels_N.device
    step = max(1, CHUNK_BYTES // (4 * head.weight_VD.shape[0]))
    logp_N, mean_N, variance_N, rank_N = (torch.empty(n, device=device) for _ in range(4))
    greedy_N = torch.empty(n, dtype=torch.bool, device=device)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        z_NV = head.logits(hidden_ND[rows])
        lse_N = z_NV.logsumexp(-1)
        greedy_N[rows] = z_NV.argmax(-1) == labels_N[rows]
        own_N = z_NV.gather(-1, labels_N[rows, None])[:, 0]
        logp_N[rows] = own_N - lse_N
        if moments:
            rank_N[rows] = (1.0 + (z_NV > own_N[:, None]).sum(-1)).masked_fill(lse_N.isnan(), torch.nan)
            mean_N[rows], variance_N[rows] = _moments(z_NV - lse_N[:, None])
    return Observed(logp_N, greedy_N, mean_N, variance_N, rank_N) if moments else Observed(logp_N, greedy_N)


def _moments(logp_NV: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of log p(v) under p. A token of probability 0 adds nothing, whatever its logarithm."""
    p_NV = logp_NV.exp()
    finite_NV = logp_NV.masked_fill(p_NV == 0, 0.0)  # NaN stays NaN
    mean_N = (p_NV * finite_NV).sum(-1)
    return mean_N, (p_NV * (finite_NV - mean_N[:, None]).square()).sum(-1)
