"""What is gathered of the vocabulary from block to block: softmax, the divergence of two softmaxes, the largest values.

Shapes: N positions, V columns of a block. float32, nats.
"""

from math import log

import torch
from torch import Tensor


class Softmax:
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


class Largest:
    """The `count` largest values of each position, met block by block."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._largest_NK: Tensor | None = None

    def add(self, z_NV: Tensor) -> None:
        values_NV = z_NV if self._largest_NK is None else torch.cat([self._largest_NK, z_NV], -1)
        self._largest_NK = values_NV.topk(min(self._count, values_NV.shape[-1]), -1).values

    @property
    def least_N(self) -> Tensor:
        """Of those; of all values where there are fewer."""
        assert self._largest_NK is not None, "a vocabulary has a block"
        return self._largest_NK[:, -1]


def log_ratio_to_mixture(logp_NV: Tensor, logq_NV: Tensor) -> Tensor:
    """log(p / m), where m = (p + q) / 2: what the Jensen-Shannon divergence averages; at most log 2."""
    return logp_NV - torch.logaddexp(logp_NV, logq_NV) + log(2)


def place(tokens_N: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Where in the block each token's column is, and whether it is there at all."""
    index_N = tokens_N - columns.start
    width = columns.stop - columns.start
    return index_N.clamp(0, width - 1), (index_N >= 0) & (index_N < width)


def add_at(block_NV: Tensor, tokens_N: Tensor, columns: slice, values_N: Tensor) -> Tensor:
    """In place: each row's value at its token's column, where the block has it."""
    index_N, inside_N = place(tokens_N, columns)
    return block_NV.scatter_add_(-1, index_N[:, None], torch.where(inside_N, values_N, 0)[:, None])
