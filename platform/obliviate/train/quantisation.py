"""Quantisation-aware forgetting (after DurableUn-SAF, arXiv:2605.02196): the forget objective is that of the weights
rounded to few bits, as whoever deploys the model has them, and its gradient is taken for that of the weights
themselves (straight-through). Forgetting that rounding undoes is then no minimum. Regularizers see the weights as they
are.

Rounded are the linear layers, as `obliviate.quantise` does. Of a layer with an adapter that will be merged, the sum of
both; beside an adapter that is kept, the weight alone. The paper rounds 4-bit floats; here the rounding is that of
integers with a scale for each group of an output's inputs, which no shard cuts.

Shapes: O outputs, D inputs of a layer; fused experts have one dimension more in front.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from torch import Tensor

from obliviate.errors import UserError
from obliviate.linear import linear_weights
from obliviate.quantise import Format, quantised
from obliviate.train.lora import adapter_change
from obliviate.train.model import ScoredModel, reshard
from obliviate.train.shards import local, mine, whole

FACTORS = (".lora_A.", ".lora_B.")


class Quantisation:
    """Made once of a model; raises UserError for adapters of fused experts, whose sums are made in the forward pass."""

    def __init__(self, model: ScoredModel, to: Format, *, merged: bool) -> None:
        """`merged`: whether adapters are added to the weights when the model is written."""
        self._model, self._to, self._merged = model, to, merged
        if merged and any(isinstance(module, ParamWrapper) for module in model.modules()):
            raise UserError(
                "quantisation: adapters of fused experts are not rounded with their weights; train all weights, leave "
                "model.lora out, or remove quantisation"
            )

    @contextmanager
    def rounded(self) -> Iterator[None]:
        """While the block runs, forward passes see rounded weights; these come back to exactly what they were, and
        gradients stay. Every worker calls it."""
        reshard(self._model)
        kept = []
        with torch.no_grad():
            for weight, transposed, adapter in self._weights():
                kept.append((local(weight), local(weight).clone()))
                local(weight).copy_(self._deployed(weight, transposed, adapter))
        try:
            yield
        finally:
            with torch.no_grad():
                for held, before in kept:
                    held.copy_(before)

    def _weights(self) -> Iterator[tuple[Tensor, bool, LoraLayer | None]]:
        """Each weight, whether its rows are inputs, and the adapter that will be added to it."""
        model = self._model.causal_lm
        for name, each in linear_weights(model).items():
            weight = model.get_parameter(name)
            if any(factor in name for factor in FACTORS) or (not each.plain and weight.ndim == 2):
                continue  # adapters' own layers, and routers
            layer = model.get_submodule(name.rpartition(".base_layer.")[0]) if ".base_layer." in name else None
            adapter = layer if self._merged and isinstance(layer, LoraLayer) else None
            yield weight, each.transposed, adapter

    def _deployed(self, weight: Tensor, transposed: bool, adapter: LoraLayer | None) -> Tensor:
        """This worker's part of what, with the adapter added, is the rounded sum."""
        change = None if adapter is None else adapter_change(adapter)
        if transposed and weight.ndim == 2:  # sharded along the inputs, which share scales
            added_DO = whole(weight) if change is None else whole(weight) + change
            found = mine(quantised(added_DO.mT.contiguous(), self._to).values.mT, weight)
        else:
            added = local(weight) if change is None else local(weight) + mine(change, weight)
            added_OD = added.mT.contiguous() if transposed else added
            values_OD = quantised(added_OD, self._to).values
            found = values_OD.mT if transposed else values_OD
        found = found.to(weight.dtype)
        return found if change is None else found - mine(change, weight)
