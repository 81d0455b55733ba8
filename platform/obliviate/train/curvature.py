"""The steps of K-FADE (arXiv:2602.10568): gradients divided by the curvature of the retain set, layer by layer.

Shapes: O outputs, D inputs of a layer; B texts, T tokens, N real tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import sqrt
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from obliviate.data.schedule import Item
from obliviate.methods import Curvature, Needs, Pass, Positions
from obliviate.scoring import Stat
from obliviate.train.batch import Texts, collate
from obliviate.train.gram import grams, linear_layers, outputs
from obliviate.train.job import Job
from obliviate.train.model import ScoredModel
from obliviate.train.shards import local, mine, whole
from obliviate.train.together import turns_of

NEEDS: Needs = {Pass.RETAIN: {Stat.LOGP: Positions.ANSWER}}


def inverse(gram: Tensor, damping: float) -> Tensor:
    """Of a Gram matrix over its mean eigenvalue, with `damping` added: whatever it counts, and how much of it, drops
    out. Of zeros alone, that of the damping."""
    mean = gram.diagonal().mean()
    relative = gram.double() / mean.double().clamp(min=torch.finfo(torch.float32).tiny)
    eye = torch.eye(len(gram), dtype=torch.float64, device=gram.device)
    found: Tensor = torch.linalg.inv(relative + damping * eye)
    return found.float()


class Curved:
    """Made of the starting model; all workers call it alike. Raises UserError for trained experts."""

    again = True  # each step takes a gradient of its own

    def __init__(self, job: Job, model: ScoredModel, texts: Texts, spec: Curvature) -> None:
        layers, device = linear_layers(model), next(model.parameters()).device
        count, size, length = len(job.retain), job.optim.micro_batch_size, job.model.max_length
        chosen = np.random.default_rng([job.seed, count]).permutation(count)[: spec.texts]
        items = [Item(retain=int(index)) for index in chosen]
        of_outputs = _output_grams(model, layers, texts, items, length, device)
        of_inputs = grams(model, layers, texts, Pass.RETAIN, items, size=size, max_length=length, device=device)
        self._model = model
        self._inverse = {
            f"{name}.weight": (inverse(of_outputs[name], spec.damping), inverse(of_inputs[name], spec.damping))
            for name in layers
        }
        self._by_input = {f"{name}.weight" for name, layer in layers.items() if isinstance(layer, Conv1D)}

    @torch.no_grad()
    def step(self, length: float) -> float:
        """The direction's norm, over all weights. Gradients are used up."""
        squares = 0.0
        for name, parameter in self._model.named_parameters():
            if name in self._inverse and parameter.grad is not None:
                outputs_OO, inputs_DD = self._inverse[name]
                gradient = whole(parameter.grad).float()
                left, right = (inputs_DD, outputs_OO) if name in self._by_input else (outputs_OO, inputs_DD)
                direction = left @ gradient @ right
                squares += float(direction.square().sum())
                local(parameter).sub_(mine(direction, parameter), alpha=length)
            parameter.grad = None
        return sqrt(squares)


def _output_grams(
    model: ScoredModel,
    layers: Mapping[str, nn.Module],
    texts: Texts,
    items: Sequence[Item],
    max_length: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """Sum of g g^T [O, O] over the tokens of retain rows: g the gradient, in a layer's output at a token, of the sum of
    log p over the row's answer. The same on every worker.

    A row at a time: of several, tokens that they begin with alike are read once, and their gradients added up.
    """
    sums = {name: torch.zeros(outputs(layer), outputs(layer), device=device) for name, layer in layers.items()}
    texts.encode((Pass.RETAIN,), items)
    model.eval()
    for part, counted in turns_of(items, 1):
        batch = collate(texts, part, NEEDS, max_length).to(device)
        wanted = {str(Pass.RETAIN): (batch.rows[Pass.RETAIN], batch.answer_BT, (Stat.LOGP,))}
        with _summed(layers, sums if counted else {}):
            out = model(batch.input_ids_BT, batch.attention_BT, wanted, {})
            (out[f"{Pass.RETAIN}/{Stat.LOGP}"] * batch.answer_BT).sum().backward()
        model.zero_grad()
    model.train()
    for gram in sums.values():
        dist.all_reduce(gram)
    return sums


@contextmanager
def _summed(layers: Mapping[str, nn.Module], sums: Mapping[str, Tensor]) -> Iterator[None]:
    """While the block runs, add what reaches each layer's outputs in backward passes. Padding gets no gradient: no
    answer token reads it."""

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def add(gradient_BTO: Tensor) -> None:
            g_NO = gradient_BTO.flatten(end_dim=-2).float()
            sums[name].addmm_(g_NO.T, g_NO)

        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            output.register_hook(add)

        return hook

    handles = [layers[name].register_forward_hook(keep(name)) for name in sums]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
