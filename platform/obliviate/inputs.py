"""What linear layers read while a model reads texts, one at a time so that none is padded.

Shapes: D inputs of a layer, N tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from obliviate.decoder import decoder_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _ReachedError(Exception):
    """The module that was waited for has put out something."""


@torch.no_grad()
def read_by(
    model: "PreTrainedModel",
    texts: Iterable[Sequence[int]],
    add: Mapping[str, Callable[[Tensor], object]],
    until: nn.Module | None = None,
) -> None:
    """Hand over what the modules of these names read of each text (token ids), float32 [N, D]. `until`: no further
    than this module."""
    with _hooked(model, add, until):
        for ids in texts:
            ids_1T = torch.tensor([list(ids)], device=model.device)
            try:
                decoder_of(model)(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T), use_cache=False)
            except _ReachedError:
                continue


def grams_of(
    model: "PreTrainedModel",
    texts: Iterable[Sequence[int]],
    inputs: Mapping[str, int],
    until: nn.Module | None = None,
) -> dict[str, Tensor]:
    """X^T X [D, D], float32, of what each module reads over all tokens of the texts; `inputs`: D of each."""
    sums = {name: torch.zeros(size, size, device=model.device) for name, size in inputs.items()}
    read_by(model, texts, {name: _adding(gram_DD) for name, gram_DD in sums.items()}, until)
    return sums


def _adding(gram_DD: Tensor) -> Callable[[Tensor], object]:
    return lambda x_ND: gram_DD.addmm_(x_ND.T, x_ND)


@contextmanager
def _hooked(
    model: "PreTrainedModel", add: Mapping[str, Callable[[Tensor], object]], until: nn.Module | None
) -> Iterator[None]:
    def hook(hand_over: Callable[[Tensor], object]) -> Callable[[Any, tuple[Tensor, ...]], None]:
        def read(_: Any, inputs: tuple[Tensor, ...]) -> None:
            hand_over(inputs[0].flatten(end_dim=-2).float())

        return read

    def reached(*_: Any) -> None:
        raise _ReachedError

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(each)) for name, each in add.items()]
    if until is not None:
        handles.append(until.register_forward_hook(reached))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
