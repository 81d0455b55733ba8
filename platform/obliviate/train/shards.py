"""Parameters and their gradients, as this worker holds them."""

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
