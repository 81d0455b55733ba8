"""The directions in which the inputs of a layer lie, strongest first. Shapes: D inputs of a layer, K directions."""

from typing import NamedTuple

import torch
from torch import Tensor


class Directions(NamedTuple):
    energy_K: Tensor  # eigenvalues: squared lengths of the inputs along each
    vectors_DK: Tensor  # orthonormal


def leading(gram_DD: Tensor, energy: float) -> Directions:
    """The fewest eigenvectors of X^T X that hold the share `energy` of its trace, float32.

    Their squared singular values are the eigenvalues, so this is the basis that a singular value decomposition of X
    gives, without X. None where no input was ever anything but zero.
    """
    values_D, vectors_DD = torch.linalg.eigh(gram_DD.double())
    values_D, vectors_DD = values_D.flip(0).clamp(min=0), vectors_DD.flip(1)
    share_D = values_D.cumsum(0) / values_D.sum().clamp(min=torch.finfo(values_D.dtype).tiny)
    kept = int((share_D < energy * (1 - 1e-12)).sum()) + 1 if values_D[0] > 0 else 0
    return Directions(values_D[:kept].float(), vectors_DD[:, :kept].float())
