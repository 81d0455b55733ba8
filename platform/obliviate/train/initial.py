"""The weights as they were before the first step, for terms that compare the present ones with them, and the noise that
some methods add to them.

One parameter at a time is whole; what is kept of the initial weights is sharded as the model is, in float32: a quarter
of what training holds anyway.
"""

from collections.abc import Iterator
from math import sqrt

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial

from obliviate.methods import ParameterRegularizer, ParameterTerm
from obliviate.train.model import ScoredModel, reshard
from obliviate.train.shards import local, mine, whole


class InitialWeights:
    """Made before a checkpoint is loaded: from then on it never changes."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._initial = [parameter.detach().clone() for parameter in self._parameters]

    def add_gradients(self, term: ParameterTerm, weight: float, seed: tuple[int, int]) -> float:
        """Add the gradient of `weight` times the penalty to every parameter's; this worker's share of the penalty.

        `seed`, the run's and the step, draws the directions: the same on every worker. All workers call it together,
        after their backward passes.
        """
        if term.of_parts:
            return self._add_parts(term, weight)
        assert isinstance(term, ParameterRegularizer)
        share = 0.0
        for index, (parameter, initial) in enumerate(zip(self._parameters, self._initial, strict=True)):
            now_ND = _rows(parameter).requires_grad_()
            directions_KD = directions(term.directions, now_ND.shape[-1], (*seed, index))
            mine_KD = directions_KD[dist.get_rank() :: dist.get_world_size()].to(now_ND.device)
            value = term.penalty(_rows(initial), now_ND, mine_KD)
            (gradient_ND,) = torch.autograd.grad(weight * value, now_ND)
            _add(parameter, gradient_ND.view(parameter.shape))
            share += float(value.detach())
        return share

    def _add_parts(self, term: ParameterTerm, weight: float) -> float:
        """Each worker of its own part."""
        share = 0.0
        for parameter, initial in zip(self._parameters, self._initial, strict=True):
            now = local(parameter).detach().view(1, -1).requires_grad_()
            value = term.penalty(local(initial).view(1, -1), now, now.new_empty(0, now.shape[1]))
            (gradient,) = torch.autograd.grad(weight * value, now)
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            local(parameter.grad).add_(gradient.view_as(local(parameter)))
            share += float(value.detach())
        return share


@torch.no_grad()
def distort(model: ScoredModel, std: float, seed: int) -> None:
    """Add N(0, std^2) to every trained weight. All workers call it."""
    for parameter, generator in _drawing(model, seed):
        noise = torch.randn(parameter.shape, generator=generator)
        local(parameter).add_(mine(noise, parameter).to(parameter.device), alpha=std)


@torch.no_grad()
def shrink(model: ScoredModel, share: float, noise: float, seed: int) -> None:
    """W <- (1 - share) W + share noise N of every trained weight, as UNDO's code does (arXiv:2506.06278): N is Xavier's
    uniform noise in matrices, within sqrt(6 / (inputs + outputs)), and nothing in vectors. All workers call it."""
    for parameter, generator in _drawing(model, seed):
        local(parameter).mul_(1 - share)
        if parameter.ndim > 1:
            drawn = 2 * torch.rand(parameter.shape, generator=generator) - 1
            bound = sqrt(6 / sum(parameter.shape[-2:]))
            local(parameter).add_(mine(drawn, parameter).to(parameter.device), alpha=share * noise * bound)


def _drawing(model: ScoredModel, seed: int) -> Iterator[tuple[nn.Parameter, torch.Generator]]:
    """Each trained parameter, and what draws for it. Of each all is drawn, on the CPU, and a part of it used: that
    depends on neither workers nor device."""
    reshard(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for index, parameter in enumerate(trained):
        yield parameter, torch.Generator().manual_seed(int(np.random.SeedSequence([seed, index]).generate_state(1)[0]))


def directions(count: int, dimension: int, seed: tuple[int, ...]) -> Tensor:
    """Unit vectors [count, dimension], uniform on the sphere; drawn on the CPU, so that every device has the same."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    return F.normalize(torch.randn(count, dimension, generator=generator), dim=-1)


def _rows(parameter: Tensor) -> Tensor:
    """The whole parameter, detached, as rows: a vector is one, and of more dimensions the first counts the rows."""
    values = whole(parameter).detach()
    return values.view(1, -1) if values.ndim < 2 else values.flatten(1)


def _add(parameter: Tensor, gradient: Tensor) -> None:
    """Sum the workers' gradients, and add to each worker's shard its part."""
    if isinstance(parameter, DTensor):
        partial = DTensor.from_local(gradient, parameter.device_mesh, [Partial()], run_check=False)
        gradient = partial.redistribute(placements=parameter.placements)
    if parameter.grad is None:  # no text's loss reaches it
        parameter.grad = gradient
    else:
        parameter.grad.add_(gradient)
