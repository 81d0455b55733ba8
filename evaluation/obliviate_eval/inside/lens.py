"""The logit lens: what a model's output layer would say of a layer's hidden states.

Two attacks read it. With the original model's output layer and the weights of `patching.depth`: the second best measure
of depth in Lee, Kim and Jo 2026 (arXiv:2605.24614). With the attacked model's own: is the fact's token among the k
likeliest of some layer (after Patil et al. 2024, arXiv:2309.17410, who take answers of one token).

Shapes: T tokens, L layers, P predicting places of an item, D hidden size, N positions.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from obliviate.decoder import decoder_layers, decoder_of, final_hidden, head_of
from obliviate.errors import UserError
from obliviate.inference.observe import observe
from obliviate_eval.inside.states import Item

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 8  # of the text that the norm is found with


@torch.inference_mode()
def last_norm(model: "PreTrainedModel") -> Callable[[Tensor], Tensor]:
    """What the model does to its last layer's output before the output layer.

    It is found, not known by name: the module that is given what the last layer puts out and makes of it what the
    decoder puts out. Raises UserError where that is no single module.
    """
    decoder, last = decoder_of(model), decoder_layers(model)[-1]
    ids_1T = torch.arange(TOKENS, device=model.device)[None]
    seen: list[tuple[Any, Tensor, Tensor]] = []  # module, what it is given, what it puts out

    def keep(module: Any, given: tuple[Any, ...], output: Any) -> None:
        found = output[0] if isinstance(output, tuple) else output
        if given and isinstance(given[0], Tensor) and isinstance(found, Tensor):
            seen.append((module, given[0], found))

    inside = set(last.modules())
    handles = [each.register_forward_hook(keep) for each in decoder.modules() if each is last or each not in inside]
    try:
        out_1TD = decoder(input_ids=ids_1T, use_cache=False)[0]
    finally:
        for handle in handles:
            handle.remove()
    hidden_1TD = next(output for module, _, output in reversed(seen) if module is last)
    if torch.equal(hidden_1TD, out_1TD):
        return partial(final_hidden, model)
    for module, given, output in seen:
        if module is not last and _same(given, hidden_1TD) and _same(output, out_1TD):
            return partial(_normed, model, module)
    raise UserError(
        f"model.source: {type(model).__name__}: more than one module lies between its layers and its output layer, so "
        "that it has no logit lens; leave the attack out"
    )


def _normed(model: "PreTrainedModel", norm: nn.Module, hidden_BTD: Tensor) -> Tensor:
    return final_hidden(model, norm(hidden_BTD))


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


class Read(NamedTuple):
    """Of one item, by layer and token of its span: log-probabilities in nats, and ranks, 1 for the likeliest token."""

    logp_LP: Tensor
    rank_LP: Tensor

    @property
    def by_layer(self) -> list[float]:
        """Means over the span."""
        found: list[float] = self.logp_LP.mean(1).tolist()
        return found

    def in_top(self, k: int) -> float:
        """The share of the tokens that are among the `k` likeliest of some layer."""
        return float((self.rank_LP <= k).any(0).float().mean())


@torch.inference_mode()
def lens(model: "PreTrainedModel", items: Sequence[Item], states: Sequence[Tensor]) -> list[Read]:
    """What this model's output layer makes of states, [L, P, D] of each item, of its own or of another model."""
    norm, head, found = last_norm(model), head_of(model), []
    for item, states_LPD in zip(items, states, strict=True):
        layers, places, _ = states_LPD.shape
        hidden_1ND = norm(states_LPD.flatten(0, 1)[None].to(model.device, model.dtype))
        labels_N = torch.tensor(item.labels, device=model.device).repeat(layers)
        seen = observe(hidden_1ND[0], labels_N, head, moments=True)
        assert seen.rank_N is not None
        found.append(Read(seen.logp_N.view(layers, places).cpu(), seen.rank_N.view(layers, places).cpu()))
    return found
