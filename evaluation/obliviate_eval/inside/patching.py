"""Unlearning depth by activation patching (Lee, Kim and Jo 2026, arXiv:2605.24614, equations 1 to 6).

The original model reads question and answer, teacher-forced, while the hidden states of one layer come from another
model, the source: does the original still say the fact? Where the source has lost it, the log-probability of the fact's
tokens falls. Patched are the states that *predict* these tokens, one place before each, as in the authors' code: the
state at a token's own place knows it from the input.

Shapes: R rows, one for each item and layer, T tokens, P predicting places of an item, D hidden size, N positions.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from obliviate.decoder import decoder_layers, decoder_of, final_hidden, head_of
from obliviate.inference.observe import observe
from obliviate.inference.reader import pad, positions, reads_whole
from obliviate_eval.inside.states import Item, changed, in_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NO_LAYER = -1
THRESHOLD = 0.05  # nats: a layer whose states cost the fact less than this has nothing of it


def depth(
    original: Sequence[float], retain: Sequence[float], unlearned: Sequence[float], threshold: float = THRESHOLD
) -> float | None:
    """How deep a fact is erased, from 0 (as in the original model) to 1 (as in the retain model).

    Log-probabilities of the fact's tokens by layer, in nats: as the original model has them, and with what that layer
    puts out in the retain and in the unlearned model. None where no layer of the retain model lacks the fact, or a
    number is not finite (a collapsed model).
    """
    if not all(map(isfinite, (*original, *retain, *unlearned))):
        return None
    lost = [
        (whole - without, whole - after)
        for whole, without, after in zip(original, retain, unlearned, strict=True)
        if whole - without > threshold
    ]
    if not lost:
        return None
    return sum(min(max(after, 0.0), without) for without, after in lost) / sum(without for without, _ in lost)


@dataclass(frozen=True)
class _Row:
    """An item, read while one layer puts out other states."""

    index: int
    item: Item
    layer: int
    states_PD: Tensor
    start: int  # the place of the first column that is read

    @property
    def columns(self) -> list[int]:
        return [place - self.start for place in self.item.predicting]


Chosen = tuple[int, Item, Tensor]  # an item with its number and the states that are put in


@torch.inference_mode()
def patched_logp(
    model: "PreTrainedModel", items: Sequence[Item], states: Sequence[Tensor], batch_tokens: int
) -> list[list[float]]:
    """Of each item and each layer the mean log-probability, in nats, of the span's tokens where that layer puts out
    these states, [L, P, D], at the predicting places.

    What lies before the first of these is the same for all layers: it is read once, and the rest behind its keys and
    values. Models that keep anything else of a text, or rotate long texts otherwise, read each row whole.
    """
    wholes = reads_whole(model, max((len(item.ids) for item in items), default=0))
    whole: list[Chosen] = []
    behind: list[Chosen] = []
    for chosen in zip(range(len(items)), items, states, strict=True):
        (whole if wholes or chosen[1].predicting[0] == 0 else behind).append(chosen)
    found = [[0.0] * len(decoder_layers(model)) for _ in items]
    for read in (_read_whole(model, whole, batch_tokens), _read_behind(model, behind, batch_tokens)):
        for row, logp in read:
            found[row.index][row.layer] = logp
    return found


@torch.inference_mode()
def span_logp(model: "PreTrainedModel", items: Sequence[Item], batch_tokens: int) -> list[float]:
    """The same with nothing patched, of each item."""
    found = [0.0] * len(items)
    rows = [_Row(i, item, NO_LAYER, torch.empty(0), 0) for i, item in enumerate(items)]
    for row, logp in _rows_read_whole(model, rows, batch_tokens):
        found[row.index] = logp
    return found


def _read_whole(model: "PreTrainedModel", chosen: Sequence[Chosen], batch_tokens: int) -> Iterator[tuple[_Row, float]]:
    layers = range(len(decoder_layers(model)))
    rows = [_Row(i, item, layer, states[layer], 0) for i, item, states in chosen for layer in layers]
    return _rows_read_whole(model, rows, batch_tokens)


def _rows_read_whole(model: "PreTrainedModel", rows: Sequence[_Row], batch_tokens: int) -> Iterator[tuple[_Row, float]]:
    for batch in in_batches(model, [len(row.item.ids) for row in rows], batch_tokens):
        ids_RT, mask_RT = pad([rows[i].item.ids for i in batch], model.device, left=False)
        inputs = {"input_ids": ids_RT, "attention_mask": mask_RT.long(), "use_cache": False}
        alike = [rows[i] for i in batch]
        yield from zip(alike, _logp(model, alike, inputs), strict=True)


def _read_behind(model: "PreTrainedModel", chosen: Sequence[Chosen], batch_tokens: int) -> Iterator[tuple[_Row, float]]:
    layers = len(decoder_layers(model))
    for batch in in_batches(model, [layers * item.span[-1] for _, item, _ in chosen], batch_tokens):
        alike = [chosen[i] for i in batch]
        cache, inputs, tokens = _prefixes(model, [item for _, item, _ in alike])
        rows = [
            (of, _Row(i, item, layer, states[layer], item.predicting[0]))
            for of, (i, item, states) in enumerate(alike)
            for layer in range(layers)
        ]
        step = max(1, batch_tokens // tokens)  # one item's rows alone can be more than a batch
        for first in range(0, len(rows), step):
            part = rows[first : first + step]
            of_R = torch.tensor([of for of, _ in part], device=model.device)
            selected = {name: tensor[of_R] for name, tensor in inputs.items()}
            cached = {"past_key_values": _selected(cache, of_R), "use_cache": True}
            found = _logp(model, [row for _, row in part], {**selected, **cached})
            yield from zip([row for _, row in part], found, strict=True)


def _prefixes(model: "PreTrainedModel", items: Sequence[Item]) -> tuple[DynamicCache, dict[str, Tensor], int]:
    """Keys and values of what lies before the places that are patched, what is read behind it, and their tokens."""
    starts = [item.predicting[0] for item in items]
    prefixes = [item.ids[:start] for item, start in zip(items, starts, strict=True)]
    windows = [item.ids[start : item.span[-1]] for item, start in zip(items, starts, strict=True)]
    before_IT, before_mask_IT = pad(prefixes, model.device, left=True)
    ids_IT, mask_IT = pad(windows, model.device, left=False)
    mask_IT = torch.cat([before_mask_IT, mask_IT], dim=1)
    places_IT, width = positions(mask_IT), before_IT.shape[1]
    cache = DynamicCache(config=model.config)
    decoder_of(model)(
        input_ids=before_IT,
        attention_mask=before_mask_IT,
        position_ids=places_IT[:, :width],
        past_key_values=cache,
        use_cache=True,
    )
    inputs = {"input_ids": ids_IT, "attention_mask": mask_IT, "position_ids": places_IT[:, width:]}
    return cache, inputs, mask_IT.shape[1]


def _selected(cache: DynamicCache, rows_R: Tensor) -> DynamicCache:
    """A cache of these rows, which grows by itself."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(rows_R)
    return chosen


def _logp(model: "PreTrainedModel", rows: Sequence[_Row], inputs: Mapping[str, Any]) -> list[float]:
    """Of each row, its layer patched."""
    device = model.device
    of_layer: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        of_layer.setdefault(row.layer, []).append(i)

    def at(chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rows and columns of their predicting places."""
        row_N = [i for i in chosen for _ in rows[i].columns]
        column_N = [column for i in chosen for column in rows[i].columns]
        return torch.tensor(row_N, device=device), torch.tensor(column_N, device=device)

    def patch(layer: int, hidden_RTD: Tensor) -> Tensor | None:
        chosen = of_layer.get(layer)
        if chosen is None:
            return None
        states_ND = torch.cat([rows[i].states_PD for i in chosen]).to(hidden_RTD)
        return hidden_RTD.index_put(at(chosen), states_ND)

    with changed(model, patch):
        hidden_RTD = decoder_of(model)(**inputs)[0]
    labels_N = torch.tensor([label for row in rows for label in row.item.labels], device=device)
    hidden_ND = final_hidden(model, hidden_RTD[at(range(len(rows)))])
    logp_N = observe(hidden_ND, labels_N, head_of(model)).logp_N.cpu()
    return [float(logp_P.mean()) for logp_P in logp_N.split([len(row.item.span) for row in rows])]
