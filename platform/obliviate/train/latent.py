"""Latent adversarial training (LAT; Casper et al. 2024, arXiv:2403.05030; targeted: Sheshadri et al. 2024,
arXiv:2407.15549): forget under the worst of the hidden states nearby, not only under those that texts lead to.

Before each gradient of the forget objective an adversary moves what some layers put out, by at most epsilon in each
dimension, to where the model gives the true answers the highest probability: projected gradient descent from where they
are, each step 2.5 epsilon / steps along the gradient's sign (Madry et al. 2018, arXiv:1706.06083). The objective is
then taken there, whatever it is. A refusal or another answer to the same question is moved where it agrees with the
true text: up to its first token that differs. The frozen model's constants are of unmoved states.

Texts are padded and not packed while states are moved: tokens that texts share would be moved for all of them together,
and the result would depend on which texts meet in a batch.

Shapes: B texts, T tokens, D numbers that a layer puts out.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from obliviate.schema import LatentSpec, Layer
from obliviate.train.batch import Batch
from obliviate.train.model import ScoredModel, layer_of
from obliviate.train.surprise import surprise

Moves = Mapping[Layer, Tensor]  # [B, T, D], float32


def moves(model: ScoredModel, true: Batch, spec: LatentSpec, seed: int) -> Moves:
    """How the layers' outputs are moved for a batch of true answers. Every worker calls it; no parameter gets a
    gradient. `seed` is dropout's, the same at each step."""
    found: dict[Layer, Tensor] = {}
    for _ in range(spec.steps):
        with _added(model, spec.layers, found):
            torch.manual_seed(seed)
            # A sum over texts: what moves one does not depend on the others.
            gradients = torch.autograd.grad(surprise(model, true), [found[layer] for layer in spec.layers])
        for layer, gradient in zip(spec.layers, gradients, strict=True):
            stepped_BTD = found[layer].detach() - 2.5 * spec.epsilon / spec.steps * gradient.sign()
            found[layer] = stepped_BTD.clamp(-spec.epsilon, spec.epsilon).requires_grad_()
    return {layer: move_BTD.detach() for layer, move_BTD in found.items()}


@contextmanager
def moved(model: ScoredModel, true_moves: Moves, true: Batch, batch: Batch) -> Iterator[None]:
    """Around forward and backward passes over another batch of the same items."""
    placed: dict[Layer, Tensor] = {}
    length = min(true.input_ids_BT.shape[1], batch.input_ids_BT.shape[1])
    for layer, move_BTD in true_moves.items():
        placed[layer] = move_BTD.new_zeros((*batch.input_ids_BT.shape, move_BTD.shape[-1]))
        for rows in batch.rows.values():
            same_BT = batch.input_ids_BT[rows, :length] == true.input_ids_BT[:, :length]
            real_BT = batch.attention_BT[rows, :length] * true.attention_BT[:, :length]
            agrees_BT = (same_BT * real_BT).cumprod(-1)
            placed[layer][rows, :length] = move_BTD[:, :length] * agrees_BT[..., None]
    with _added(model, tuple(placed), placed):
        yield


@contextmanager
def _added(model: ScoredModel, layers: tuple[Layer, ...], found: dict[Layer, Tensor]) -> Iterator[None]:
    """While the block runs, add these to what the layers put out; of a layer that has none yet, zeros are put there."""

    def hook(layer: Layer) -> Callable[[nn.Module, Any, Any], Any]:
        def add(_: nn.Module, __: Any, output: Any) -> Any:
            first = output[0] if isinstance(output, tuple) else output
            if layer not in found:
                found[layer] = torch.zeros_like(first, dtype=torch.float32, requires_grad=True)
            there = first + found[layer].to(first.dtype)
            return (there, *output[1:]) if isinstance(output, tuple) else there

        return add

    packs, model.packs = model.packs, False
    handles = [layer_of(model.causal_lm, layer).register_forward_hook(hook(layer)) for layer in layers]
    try:
        yield
    finally:
        model.packs = packs
        for handle in handles:
            handle.remove()
