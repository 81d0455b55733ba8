"""Arithmetic on the weights of a model, or of several, in float32: one tensor of each at a time.

`interpolate` gives a model between two; `negate` subtracts from the original what others have learned; `combine` is
what both are made of, and what else makes one model's weights of others'.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from obliviate import companions, storage
from obliviate.digests import DIGESTS
from obliviate.errors import UserError
from obliviate.runs import whole_folder, write_json
from obliviate.weights import INDEX, Stored, tensors_in

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Mix = Callable[[str, "list[Tensor]"], "Tensor"]  # of a tensor's name, and of what each model has under it, in float32

# The card tells how the other model was made, not this one; the index is written anew.
LEFT_BEHIND = ("README.md", storage.MARK, DIGESTS, INDEX)


def interpolate(original: Path, other: Path, share: float, folder: Path) -> None:
    """Write the model at `share` of the way from `original` to `other` (Hugging Face folders) to `folder`, whole: every
    weight original + share (other - original).

    Everything but the weights is the other model's, and so are the dtypes that they are stored in; errors as of
    `combine`.
    """
    combine([other, original], lambda _, tensors: tensors[1].lerp(tensors[0], share), folder)


def negate(
    original: Path, learned: Sequence[Path], scale: float, folder: Path, dtype: "torch.dtype | None" = None
) -> None:
    """Write original - scale x change to `folder`: task-vector negation (Ilharco et al. 2023, arXiv:2212.04089).

    The change is what a model has learned; of several, the mean of what they have, and nothing where they disagree
    about the direction (NegMerge: Kim et al. 2024, arXiv:2410.05583). Stored in `dtype`; None: in float32. Errors as of
    `combine`.
    """
    import torch

    def mixed(_: str, tensors: "list[Tensor]") -> "Tensor":
        *after, before = tensors
        changes = torch.stack(after) - before
        agreed = changes.sign().sum(0).abs() == len(after)
        return before - scale * agreed * changes.mean(0)

    combine([*learned, original], mixed, folder, dtype or torch.float32)


def combine(models: Sequence[Path], mix: Mix, folder: Path, dtype: "torch.dtype | None" = None) -> None:
    """Write to `folder`, whole, the model whose tensors are what `mix` makes of those of `models`.

    Everything else is as the first of them has it, its card aside: shards, companions, and dtypes, unless all that are
    floating-point numbers are to be stored in `dtype`. A tensor of each model is in memory. Raises UserError where one
    holds other tensors than the first, which then are no two states of one model; a tied weight that it stores under
    both of its names is one tensor.
    """
    from obliviate.writer import Writer

    first, *others = [tensors_in(model) for model in models]
    for model, theirs in zip(models[1:], others, strict=True):
        require_alike(models[0], first, model, theirs)
    shapes = {name: (each.shape, _dtype(each, dtype)) for name, each in first.items()}
    with whole_folder(folder) as temporary:
        _copy_companions(models[0], temporary, dtype)
        writer = Writer(temporary, shapes, {name: each.file.name for name, each in first.items()})
        for name in first:
            writer.write(name, mix(name, [side[name].read().float() for side in (first, *others)]))
        writer.close()


def require_alike(model: Path, tensors: Mapping[str, Stored], other: Path, theirs: Mapping[str, Stored]) -> None:
    for name in sorted(set(tensors) ^ set(theirs)):
        if name in tensors or not _is_stored_twice(name, theirs):
            raise UserError(f"{model}: {name} is not in both this model and {other}: they are no states of one model")
    for name, each in tensors.items():
        if each.shape != theirs[name].shape:
            raise UserError(
                f"{each.file}: {name} has shape {list(each.shape)}, in {other} {list(theirs[name].shape)}: they are "
                "no states of one model"
            )


def _is_stored_twice(name: str, tensors: Mapping[str, Stored]) -> bool:
    """Whether another tensor is the same, number for number."""
    import torch

    one = tensors[name]
    twins = (each for each in tensors.values() if each.name != name and each.shape == one.shape)
    return any(torch.equal(each.read(), one.read()) for each in twins)


def _dtype(tensor: Stored, asked: "torch.dtype | None") -> "torch.dtype":
    """That it is written in: floating-point numbers as asked."""
    from obliviate.writer import KINDS

    own = next((dtype for dtype, kind in KINDS.items() if kind == tensor.kind), None)
    if own is None:
        raise UserError(
            f"{tensor.file}: {tensor.name} is stored as {tensor.kind}, no plain numbers; give a model whose weights "
            "are not quantised"
        )
    return asked if asked is not None and own.is_floating_point else own


def _copy_companions(model: Path, folder: Path, dtype: "torch.dtype | None") -> None:
    for file in model.iterdir():
        if file.is_file() and file.suffix != ".safetensors" and file.name not in LEFT_BEHIND:
            shutil.copy(file, folder / file.name)
    if (templates := model / companions.TEMPLATES).is_dir():
        shutil.copytree(templates, folder / companions.TEMPLATES)
    if dtype is not None and (config := folder / companions.CONFIG).is_file():
        write_json(config, companions.with_dtype(companions.read(config) or {}, dtype))
