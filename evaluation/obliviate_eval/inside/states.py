"""Reading and changing what a model's layers put out, whatever its family.

Shapes: B texts, T tokens, L layers, P places of a text, N places of a batch, D hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from obliviate.decoder import decoder_layers, decoder_of
from obliviate.errors import UserError
from obliviate.inference.limits import switch_length
from obliviate.inference.reader import batches, pad

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Item:
    """A text, and the places of the tokens in it that carry the fact: ascending, and never the first token, which
    nothing predicts."""

    ids: Ids
    span: Ids

    @property
    def predicting(self) -> Ids:
        """The places whose hidden states predict the span's tokens."""
        return tuple(place - 1 for place in self.span)

    @property
    def labels(self) -> Ids:
        return tuple(self.ids[place] for place in self.span)


@contextmanager
def changed(model: "PreTrainedModel", change: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """While the block runs, layer l puts out `change(l, what it puts out)`, or, for None, what it puts out.

    Raises UserError, in the first forward pass, where a layer puts out anything but one state a token.
    """

    def hook_of(layer: int) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(module: nn.Module, _: Any, output: Any) -> Any:
            hidden_BTD = output[0] if isinstance(output, tuple) else output
            if hidden_BTD.ndim != 3:
                raise UserError(
                    f"model.source: a {type(module).__name__} puts out {hidden_BTD.ndim}-dimensional states, and "
                    "attacks on hidden states need one state a token; leave these attacks out"
                )
            new_BTD = change(layer, hidden_BTD)
            if new_BTD is None:
                return None
            return (new_BTD, *output[1:]) if isinstance(output, tuple) else new_BTD

        return hook

    handles = [each.register_forward_hook(hook_of(i)) for i, each in enumerate(decoder_layers(model))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def in_batches(model: "PreTrainedModel", sizes: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of texts of these sizes, longest first, padded to `batch_tokens` at most; apart where the model rotates
    long texts otherwise."""
    switch = switch_length(model.config)
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    for _, alike in groupby(order, key=lambda i: switch is not None and sizes[i] > switch):
        yield from batches(list(alike), sizes, batch_tokens)


@torch.inference_mode()
def layer_states(
    model: "PreTrainedModel", texts: Sequence[Ids], places: Sequence[Ids], batch_tokens: int
) -> list[Tensor]:
    """What every layer puts out at these places of each text: [L, P, D] on the CPU, in the model's dtype."""
    found: dict[int, Tensor] = {}
    layers = len(decoder_layers(model))
    for batch in in_batches(model, [len(text) for text in texts], batch_tokens):
        counts = [len(places[i]) for i in batch]
        row_N = torch.arange(len(batch)).repeat_interleave(torch.tensor(counts)).to(model.device)
        place_N = torch.tensor([place for i in batch for place in places[i]], device=model.device)
        states_LND: list[Tensor] = [torch.empty(0)] * layers

        def keep(layer: int, hidden_BTD: Tensor, at: Any = (row_N, place_N), to: list[Tensor] = states_LND) -> None:
            to[layer] = hidden_BTD[at]

        ids_BT, mask_BT = pad([texts[i] for i in batch], model.device, left=False)
        with changed(model, keep):
            decoder_of(model)(input_ids=ids_BT, attention_mask=mask_BT.long(), use_cache=False)
        found |= zip(batch, torch.stack(states_LND).cpu().split(counts, dim=1), strict=True)
    return [found[i] for i in range(len(texts))]
