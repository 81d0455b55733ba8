"""Parameters and their gradients, as this worker holds them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """This worker's part, sharing memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All workers' parts together. Every worker calls it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def mine(tensor: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor the part that this worker holds of one of its shape, `like`."""
    if not isinstance(like, DTensor):
        return tensor
    rows = -(-len(tensor) // dist.get_world_size())  # of each worker but the last ones
    return tensor[dist.get_rank() * rows :][: len(local(like))]


@contextmanager
def restored(parameters: Sequence[Tensor]) -> Iterator[None]:
    """After the block they are exactly what they were before it; of each this worker keeps a copy of its part."""
    before = [local(parameter).detach().clone() for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, kept in zip(parameters, before, strict=True):
                local(parameter).copy_(kept)
