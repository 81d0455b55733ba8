"""The direction of RepSelect (arXiv:2606.17168): a forget gradient, its strongest directions weakened.

Shapes: O outputs, D inputs of a layer, K directions; fused experts have one dimension more in front. Of Conv1D the two
change places, which changes nothing.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from obliviate.linear import linear_weights
from obliviate.train.model import ScoredModel, source_name
from obliviate.train.shards import local, mine, whole


def collapsed(gradient_OD: Tensor, rank: int) -> Tensor:
    """G with each of its `rank` strongest directions, of singular value s, left with (min s)^2 / s.

    Seeded, so that every worker finds the same.
    """
    with torch.random.fork_rng([gradient_OD.device] if gradient_OD.is_cuda else []):
        torch.manual_seed(0)
        outputs_OK, strength_K, inputs_DK = torch.svd_lowrank(gradient_OD, q=min(rank, *gradient_OD.shape[-2:]))
    inputs = _weakened(gradient_OD, inputs_DK, strength_K)
    return _weakened(inputs.mT, outputs_OK, strength_K).mT


def _weakened(gradient_OD: Tensor, directions_DK: Tensor, strength_K: Tensor) -> Tensor:
    """What lies along a direction, divided by its strength relative to the weakest that is kept."""
    largest = strength_K.amax(-1, keepdim=True)
    # What is below is rounding: as the weakest it would leave nothing of all others.
    real_K = strength_K > largest * max(gradient_OD.shape[-2:]) * torch.finfo(strength_K.dtype).eps
    weakest = strength_K.where(real_K, largest).amin(-1, keepdim=True)
    taken_K = torch.where(real_K, 1 - weakest / strength_K, 0.0)
    return gradient_OD - (gradient_OD @ directions_DK * taken_K.unsqueeze(-2)) @ directions_DK.mT


class Selected:
    """The steps of RepSelect: all along what `find` leaves on the parameters before the first of them."""

    again = False  # one gradient for all steps

    def __init__(self, model: ScoredModel, rank: int, find: Callable[[], object]) -> None:
        find()
        linear = linear_weights(model.causal_lm)
        routers = {name for name, each in linear.items() if not each.plain and each.experts == 1}
        self._steps: list[tuple[nn.Parameter, Tensor]] = []
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and source_name(name) in linear.keys() - routers:
                direction = collapsed(whole(parameter.grad).float(), rank)
                self._steps.append((parameter, mine(direction, parameter).clone()))
            parameter.grad = None
        squares = torch.stack([direction.square().sum() for _, direction in self._steps]).sum()
        dist.all_reduce(squares)
        self._norm = float(squares.sqrt())

    @torch.no_grad()
    def step(self, length: float) -> float:
        """The direction's norm, over all weights."""
        for parameter, direction in self._steps:
            local(parameter).sub_(direction, alpha=length)
        return self._norm
