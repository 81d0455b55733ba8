"""Projected-gradient unlearning (PGU; Hoang et al. 2024, arXiv:2312.04095): forget where the retain set is not.

For each trained linear layer, U spans most of the inputs that the retain set's tokens give it. A change G of its weight
made orthogonal to them, G - (G U) U^T, leaves what the layer does to these inputs as it is, so that retained behaviour
is kept to first order without training on it. Published with plain gradient descent; AdamW scales each entry of a
projected gradient differently, which leaves the subspace, so here the update is projected as well as the gradient.

Both are local under sharding: a weight is sharded by its rows, and the projection works on each row by itself. Conv1D
(GPT-2) has its inputs along the rows: there the workers add up G^T U.

Shapes: O outputs, D inputs of a layer, K directions held.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from obliviate.data.schedule import Item
from obliviate.errors import UserError
from obliviate.methods import Pass
from obliviate.schema import ProjectionSpec
from obliviate.train.batch import Texts
from obliviate.train.gram import grams, leading_directions, linear_layers
from obliviate.train.model import ScoredModel
from obliviate.train.shards import local


def retain_projection(
    model: ScoredModel,
    texts: Texts,
    rows: int,
    spec: ProjectionSpec,
    *,
    seed: int,
    size: int,
    max_length: int,
    device: torch.device,
) -> "Projection":
    """From `spec.texts` of the `rows` retain rows, drawn by the run's seed. Every worker calls it."""
    chosen = np.random.default_rng([seed, rows]).permutation(rows)[: spec.texts]
    items = [Item(retain=int(index)) for index in chosen]
    layers = linear_layers(model)
    found = grams(model, layers, texts, Pass.RETAIN, items, size=size, max_length=max_length, device=device)
    return Projection(layers, found, spec.energy)


class Projection:
    """What has no basis (norms, biases, embeddings) is held still in a projected update: nothing protects it.

    Raises UserError where nothing is left to move.
    """

    def __init__(self, layers: Mapping[str, nn.Module], grams: Mapping[str, Tensor], energy: float) -> None:
        # By name: what a module holds under it differs between a forward pass, when it is gathered, and an update.
        self._basis_DK = {f"{name}.weight": leading_directions(grams[name], energy) for name in layers}
        self._by_row = {f"{name}.weight" for name, layer in layers.items() if isinstance(layer, Conv1D)}
        if all(basis_DK.shape[0] == basis_DK.shape[1] for basis_DK in self._basis_DK.values()):
            raise UserError(
                f"projection.energy: {energy:g}: the retain set fills every direction of all {len(layers)} trained "
                "linear layers, so that no update is left; lower it"
            )

    @torch.no_grad()
    def project_gradients(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                self._project(name, local(parameter.grad))

    @contextmanager
    def projecting(self, model: nn.Module) -> Iterator[None]:
        """Around an optimiser's step: what it changes is projected afterwards. Holds a copy of the trained weights."""
        trained = {name: local(each).detach() for name, each in model.named_parameters() if each.requires_grad}
        before = {name: weight.clone() for name, weight in trained.items()}
        yield
        for name, weight in trained.items():
            change = weight - before[name]
            self._project(name, change)
            weight.copy_(before[name] + change)

    def _project(self, name: str, change_OD: Tensor) -> None:
        """In place, of this worker's rows of a parameter (of Conv1D [d, O], the rows being inputs)."""
        basis_DK = self._basis_DK.get(name)
        if basis_DK is None:
            change_OD.zero_()
        elif name in self._by_row:
            rows = len(change_OD), -(-len(basis_DK) // dist.get_world_size())  # mine, and of each worker but the last
            mine_dK = basis_DK[dist.get_rank() * rows[1] :][: rows[0]]
            along_KO = mine_dK.T @ change_OD
            dist.all_reduce(along_KO)
            change_OD -= mine_dK @ along_KO
        else:
            change_OD -= (change_OD @ basis_DK) @ basis_DK.T
