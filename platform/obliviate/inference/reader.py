"""Reading texts on: tokens in, the logits behind them out, and what was read before kept in the model's cache.

Shapes: B rows, T new tokens of a row, V vocabulary.
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from obliviate.decoder import NO_CACHE, keeps_state
from obliviate.inference.limits import switch_length

CACHES = ("past_key_values", "cache_params", "state")  # by what names models hand out and take what they keep


class Reader(Protocol):
    def __call__(self, ids_BT: Tensor, keep: int = 1) -> Tensor:
        """Logits [B, T, V] behind the last `keep` of these tokens, 0 for all."""
        ...

    def repeat(self, times: int) -> None:
        """Go on with each row that often, side by side."""
        ...

    def select(self, rows_N: Tensor) -> None:
        """Go on with these rows alone."""
        ...


class SharedReader:
    """Keys and values, which can be padded, repeated and left away. `mask_BT` is True on the first tokens that are
    real, the others on their left are padding; None: all are."""

    def __init__(self, model: Any, mask_BT: Tensor | None = None) -> None:
        self._model, self._mask_BT = model, mask_BT
        self._cache = DynamicCache(config=model.config)

    def __call__(self, ids_BT: Tensor, keep: int = 1) -> Tensor:
        padding: dict[str, Tensor] = {}
        if self._mask_BT is not None:
            new = ids_BT.shape[1] + self._cache.get_seq_length() - self._mask_BT.shape[1]
            self._mask_BT = torch.nn.functional.pad(self._mask_BT, (0, new), value=True)
            places_BT = positions(self._mask_BT)[:, -ids_BT.shape[1] :]
            padding = {"attention_mask": self._mask_BT, "position_ids": places_BT}
        output = self._model(
            input_ids=ids_BT, past_key_values=self._cache, use_cache=True, logits_to_keep=keep, **padding
        )
        logits_BTV: Tensor = output.logits
        return logits_BTV

    def repeat(self, times: int) -> None:
        self._cache.batch_repeat_interleave(times)
        if self._mask_BT is not None:
            self._mask_BT = self._mask_BT.repeat_interleave(times, dim=0)

    def select(self, rows_N: Tensor) -> None:
        self._cache.batch_select_indices(rows_N)
        if self._mask_BT is not None:
            self._mask_BT = self._mask_BT[rows_N]


class WholeReader:
    """Whatever the model keeps of texts of one length, none padded: rows that are left away are read on unseen.

    `switch`: where a text grows beyond that many tokens, its beginning is read anew (see `switch_length`).
    """

    def __init__(self, model: Any, switch: int | None = None) -> None:
        self._model, self._switch = model, switch
        self._takes = inspect.signature(getattr(model, "get_base_model", lambda: model)().forward).parameters
        self._read_BT: Tensor | None = None
        self._kept: dict[str, Any] = {}
        self._rows_N: Tensor | None = None  # of those read, which are asked for; None: all

    def __call__(self, ids_BT: Tensor, keep: int = 1) -> Tensor:
        length = ids_BT.shape[1]
        if self._read_BT is not None:
            if self._rows_N is not None:
                all_BT = self._read_BT[:, -1:].expand(-1, length).clone()
                all_BT[self._rows_N] = ids_BT
                ids_BT = all_BT
            before = self._read_BT.shape[1]
            ids_BT = torch.cat([self._read_BT, ids_BT], dim=1)
            if self._switch is not None and before <= self._switch < ids_BT.shape[1]:
                self._kept = {}
        self._read_BT = ids_BT
        first = ids_BT.shape[1] - length if self._kept else 0
        # Some would take positions from a layer that keeps no tokens.
        place_1T = torch.arange(first, ids_BT.shape[1], device=ids_BT.device)[None]
        wanted = {"position_ids": place_1T.expand(len(ids_BT), -1), "logits_to_keep": keep}
        wanted = {name: value for name, value in wanted.items() if name in self._takes}
        caches = self._model.config.model_type not in NO_CACHE
        output = self._model(input_ids=ids_BT[:, first:], use_cache=caches, **self._kept, **wanted)
        self._kept = {name: output[name] for name in CACHES if output.get(name) is not None}
        logits_BTV: Tensor = output.logits[:, -(keep or length) :]
        return logits_BTV if self._rows_N is None else logits_BTV[self._rows_N]

    def repeat(self, times: int) -> None:
        if times > 1 and self._read_BT is not None:
            self._read_BT, self._kept = self._read_BT.repeat_interleave(times, dim=0), {}

    def copies(self, times: int) -> "list[WholeReader]":
        """Itself, and others that will read its texts from their beginning."""
        others = [WholeReader(self._model, self._switch) for _ in range(times - 1)]
        for other in others:
            other._read_BT = self._read_BT
        return [self, *others]

    def select(self, rows_N: Tensor) -> None:
        self._rows_N = rows_N if self._rows_N is None else self._rows_N[rows_N]


class RowsReader:
    """Each row by itself: RWKV in transformers mixes up the states of several rows when it reads them on."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._readers: list[WholeReader] = []

    def __call__(self, ids_BT: Tensor, keep: int = 1) -> Tensor:
        if not self._readers:
            self._readers = [WholeReader(self._model) for _ in ids_BT]
        return torch.cat([reader(row_T[None], keep) for reader, row_T in zip(self._readers, ids_BT, strict=True)])

    def repeat(self, times: int) -> None:
        self._readers = [copy for reader in self._readers for copy in reader.copies(times)]

    def select(self, rows_N: Tensor) -> None:
        self._readers = [self._readers[row] for row in rows_N.tolist()]


def reader_of(model: Any, limit: int) -> Reader:
    """For texts of one length, without padding, of up to `limit` tokens."""
    if model.config.model_type == "rwkv":
        return RowsReader(model)
    return WholeReader(model, switch_length(model.config)) if reads_whole(model, limit) else SharedReader(model)


def reads_whole(model: Any, limit: int) -> bool:
    """Whether texts of up to `limit` tokens must be read as wholes: without padding on their left, and each from its
    own beginning on."""
    switch = switch_length(model.config)
    return keeps_state(model) or (switch is not None and switch < limit)


def positions(mask_BT: Tensor) -> Tensor:
    """Of each token among the real ones of its row, from 0."""
    return (mask_BT.cumsum(-1) - 1).clamp(min=0)


def pad(texts: Sequence[tuple[int, ...]], device: torch.device, *, left: bool) -> tuple[Tensor, Tensor]:
    """Token ids [B, T] and the mask of real tokens. The mask is by length: text may hold the padding id itself."""
    width = max(map(len, texts))
    ids_BT = torch.zeros(len(texts), width, dtype=torch.long)
    mask_BT = torch.zeros(len(texts), width, dtype=torch.bool)
    for row, text in enumerate(texts):
        span = slice(width - len(text), width) if left else slice(0, len(text))
        ids_BT[row, span] = torch.tensor(text, dtype=torch.long)
        mask_BT[row, span] = True
    return ids_BT.to(device), mask_BT.to(device)


def batches(order: Sequence[int], sizes: Sequence[int], budget: int) -> Iterator[list[int]]:
    """The indices in their order, in runs whose padded size (items x largest) keeps to the budget; one at least."""
    batch: list[int] = []
    largest = 0
    for index in order:
        largest = max(largest, sizes[index])
        if batch and (len(batch) + 1) * largest > budget:
            yield batch
            batch, largest = [], sizes[index]
        batch.append(index)
    if batch:
        yield batch
