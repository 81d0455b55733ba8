"""What is left of training when its float32 weights are rounded to the dtype that they are written in."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from obliviate.schema import ModelSpec
from obliviate.train.model import ScoredModel, source_name
from obliviate.train.reading import Parts, opened
from obliviate.train.shards import local

ENOUGH = 0.5  # of the weights that moved, still to differ after rounding: below it a warning


@dataclass
class Rounding:
    """Counts of weights, over all workers."""

    dtype: str
    moved: int = 0  # that training changed in float32
    kept: int = 0  # of these, that still differ from the source's after rounding
    # Mean probability of the forget answers: of the source, of the float32 weights, and of those that are written.
    before: float | None = None
    trained: float | None = None
    written: float | None = None

    def add(self, source: Tensor, trained: Tensor, dtype: torch.dtype) -> None:
        moved = trained != source
        self.moved += int(moved.sum())
        self.kept += int((moved & (trained.to(dtype) != source.to(dtype))).sum())

    @property
    def undone(self) -> bool:
        return self.kept < ENOUGH * self.moved

    def warning(self, asked: str) -> str:
        """`asked`: what the config says of the dtype."""
        shares = f"{self.kept / self.moved:.0%} of the {self.moved} weights that training moved still differ"
        said = ""
        if self.before is not None and self.written is not None and self.trained is not None:
            said = (
                f"; the forget answers' probability is {self.before:.3g} before training, {self.trained:.3g} in "
                f"float32 and {self.written:.3g} as written"
            )
        return (
            f"model.export_dtype: {asked}: rounding to {self.dtype} undoes training: {shares} from the source's{said}; "
            "set model.export_dtype: float32, or train with a higher learning rate"
        )


@torch.no_grad()
def measured(
    model: ScoredModel, spec: ModelSpec, dtype: torch.dtype, probability: Callable[[], float | None]
) -> Rounding | None:
    """Of a model that was trained whole; None where nothing is rounded. Every worker calls it.

    `probability` says how likely the model, as it then is, holds the forget answers: asked only where rounding undoes
    training. The weights are as before afterwards.
    """
    if dtype == torch.float32:
        return None
    found = Rounding(str(dtype).removeprefix("torch."))
    _, parts = opened(spec)
    for parameter, source in _with_source(model, parts):
        found.add(source, local(parameter), dtype)
    counts = torch.tensor([found.moved, found.kept], device=next(model.parameters()).device)
    dist.all_reduce(counts)
    found.moved, found.kept = counts.tolist()
    if not found.undone:
        return found
    found.trained = probability()
    kept = [local(parameter).clone() for parameter in _trained(model).values()]
    for parameter in _trained(model).values():
        local(parameter).copy_(local(parameter).to(dtype))
    found.written = probability()
    for parameter, source in _with_source(model, parts):
        local(parameter).copy_(source)
    found.before = probability()
    for parameter, values in zip(_trained(model).values(), kept, strict=True):
        local(parameter).copy_(values)
    return found


def _trained(model: ScoredModel) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _with_source(model: ScoredModel, parts: Parts) -> Iterator[tuple[Tensor, Tensor]]:
    """Each trained parameter, and this worker's part of what it was before."""
    for name, parameter in _trained(model).items():
        yield parameter, parts.part(source_name(name), parameter, local(parameter).device)
