"""Arithmetic on the weights of several models, in float32: one shard at a time, one tensor of each side.

`interpolate` gives a model between two; `negate` subtracts from the original what others have learned.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from obliviate import companions, storage
from obliviate.errors import UserError
from obliviate.runs import whole_folder, write_json
from obliviate.weights import weight_files

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Mix = Callable[["Tensor", "list[Tensor]"], "Tensor"]  # of the original's tensor and the others'

LEFT_BEHIND = ("README.md", storage.MARK)  # the card tells how the other model was made, not this one


def interpolate(original: Path, other: Path, share: float, folder: Path) -> None:
    """Write the model at `share` of the way from `original` to `other` (Hugging Face folders) to `folder`, whole: every
    weight original + share (other - original).

    Held in memory: one shard. Everything but the weights is the other model's, its card aside, and so are the dtypes
    that they are stored in. Raises UserError where
    the two hold different tensors, which then are no two states of one model; a tied weight that the original stores
    under both of its names is one tensor.
    """
    _write(original, [other], lambda before, after: before.lerp(after[0], share), folder)


def negate(
    original: Path, learned: Sequence[Path], scale: float, folder: Path, dtype: "torch.dtype | None" = None
) -> None:
    """Write original - scale x change to `folder`: task-vector negation (Ilharco et al. 2023, arXiv:2212.04089).

    The change is what a model has learned; of several, the mean of what they have, and nothing where they disagree
    about the direction (NegMerge: Kim et al. 2024, arXiv:2410.05583). Stored in `dtype`; None: in float32. Memory and
    errors as of `interpolate`.
    """
    import torch

    def mixed(before: "Tensor", after: "list[Tensor]") -> "Tensor":
        changes = torch.stack(after) - before
        agreed = changes.sign().sum(0).abs() == len(after)
        return before - scale * agreed * changes.mean(0)

    _write(original, learned, mixed, folder, dtype or torch.float32)


def _write(original: Path, others: Sequence[Path], mix: Mix, folder: Path, dtype: "torch.dtype | None" = None) -> None:
    """Shards, and everything but weights, as the first of the others has them; in `dtype`, or in that of each of its
    tensors."""
    theirs, ours = weight_files(original), [weight_files(other) for other in others]
    for other, files in zip(others, ours, strict=True):
        for name in sorted(set(files) ^ set(theirs)):
            if name in files or not _is_stored_twice(name, theirs):
                raise UserError(f"{other}: {name} is not in both this model and {original}: they cannot be mixed")
    with whole_folder(folder) as temporary:
        for file in others[0].iterdir():
            if file.is_file() and file.suffix != ".safetensors" and file.name not in LEFT_BEHIND:
                shutil.copy(file, temporary / file.name)
        for shard in sorted(set(ours[0].values())):
            names = [name for name, file in ours[0].items() if file == shard]
            _write_shard(names, theirs, ours, mix, temporary / shard.name, dtype)
        if dtype is not None and (config := temporary / companions.CONFIG).is_file():
            write_json(config, companions.with_dtype(companions.read(config) or {}, dtype))


def _is_stored_twice(name: str, files: dict[str, Path]) -> bool:
    """Whether another tensor is the same, number for number."""
    import torch
    from safetensors import safe_open

    with safe_open(files[name], framework="pt") as weights:
        tensor = weights.get_tensor(name)
    for twin in set(files) - {name}:
        with safe_open(files[twin], framework="pt") as weights:
            alike = weights.get_slice(twin).get_shape() == list(tensor.shape)
            if alike and torch.equal(weights.get_tensor(twin), tensor):
                return True
    return False


def _write_shard(
    names: Sequence[str],
    original: Mapping[str, Path],
    others: Sequence[Mapping[str, Path]],
    mix: Mix,
    output: Path,
    dtype: "torch.dtype | None",
) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    mixed: dict[str, Tensor] = {}
    with ExitStack() as stack:
        files = {side[name] for name in names for side in (original, *others)}
        opened = {file: stack.enter_context(safe_open(file, framework="pt")) for file in files}
        for name in names:
            before = opened[original[name]].get_tensor(name).float()
            stored = [opened[side[name]].get_tensor(name) for side in others]
            after = [each.float() for each in stored]
            for side, each in zip(others, after, strict=True):
                if each.shape != before.shape:
                    raise UserError(
                        f"{side[name]}: {name} has shape {list(each.shape)}, in the original {list(before.shape)}"
                    )
            mixed[name] = mix(before, after).to(dtype or stored[0].dtype)
    save_file(mixed, output, metadata={"format": "pt"})
