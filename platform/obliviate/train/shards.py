"""Parameters and their gradients, as this worker holds them."""

from torch import Tensor
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """This worker's part, sharing memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All workers' parts together. Every worker calls it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
