"""Sliced Wasserstein distance of the weights to the initial ones (Opt-Out, arXiv:2406.12329v3; sliced: Bonneel et al.
2015, "Sliced and Radon Wasserstein barycenters of measures")."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import ParameterRegularizer

if TYPE_CHECKING:
    from torch import Tensor


class Wasserstein(ParameterRegularizer):
    """The rows of a weight matrix are points, and their order means nothing: projected onto a direction, the sorted
    points of both matrices are matched. Rows that only changed places cost nothing.

    Published code keeps the initial weights in bfloat16, projects them onto rounded directions, rounds the other
    projections before it subtracts them, and adds the squares up in bfloat16: a change of less than some 0.4% of a
    value becomes none, or a whole step of bfloat16 (`precision: bfloat16`). Here all is float32. It sums over rows
    instead of averaging, and takes no root; all parameters count, embeddings and norms too. `reduction: mean` is the
    distance as it is defined, to the power p, which does not grow with a matrix's height.

    With shards the rows are gathered, a parameter at a time: the distances of row shards are not the distance.
    """

    title: ClassVar = "Sliced Wasserstein distance to the initial weights"
    when: ClassVar = "Opt-Out and SNAP: beside gd, where all that the data don't cover is to stay as it was"
    source: ClassVar = "arXiv:2406.12329v3"

    type: Literal["wasserstein"] = "wasserstein"
    weight: float = Field(default=0.1, ge=0)
    order: float = Field(default=2.0, ge=1)  # p
    reduction: Literal["sum", "mean"] = "sum"  # over rows
    precision: Literal["float32", "bfloat16"] = "float32"

    def penalty(self, initial_ND: "Tensor", weight_ND: "Tensor", directions_KD: "Tensor") -> "Tensor":
        """(1 / directions) sum_k sum_i |sort(W u_k)_i - sort(W_0 u_k)_i|^p; the rows' mean for the inner sum."""
        import torch

        dtype = torch.bfloat16 if self.precision == "bfloat16" else weight_ND.dtype
        kept_KN = _sorted(initial_ND.to(dtype), directions_KD.to(dtype))
        moved_KN = _sorted(weight_ND, directions_KD).to(dtype)
        distance_KN = (moved_KN - kept_KN).abs() ** self.order
        total = distance_KN.sum(-1).float().sum() / self.directions
        return total / len(weight_ND) if self.reduction == "mean" else total


def _sorted(points_ND: "Tensor", directions_KD: "Tensor") -> "Tensor":
    """[K, N] rather than [N, K]: what is sorted lies side by side."""
    import torch

    return torch.sort(directions_KD @ points_ND.T, dim=-1).values
