"""Arithmetic on the weights of two models: every weight original + share x (other - original), in float32.

A share between 0 and 1 gives a model between the two; a negative one subtracts from the original what the other has
learned (task-vector negation; Ilharco et al. 2023, arXiv:2212.04089). One shard at a time, one tensor of each side.
"""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from obliviate import storage
from obliviate.errors import UserError
from obliviate.runs import whole_folder

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
LEFT_BEHIND = ("README.md", storage.MARK)  # the card tells how the other model was made, not this one


def interpolate(original: Path, other: Path, share: float, folder: Path) -> None:
    """Write the model at `share` of the way from `original` to `other` (Hugging Face folders) to `folder`, whole.

    Held in memory: one shard of the other model. Everything but the weights is the other model's, its card aside.
    Raises UserError where the two hold different tensors, which then are no two states of one model; a tied weight
    that the original stores under both of its names is one tensor.
    """
    theirs, ours = weight_files(original), weight_files(other)
    for name in sorted(set(ours) ^ set(theirs)):
        if name in ours or not _is_stored_twice(name, theirs):
            raise UserError(f"{other}: {name} is not in both this model and {original}: they cannot be mixed")
    with whole_folder(folder) as temporary:
        for file in other.iterdir():
            if file.is_file() and file.suffix != ".safetensors" and file.name not in LEFT_BEHIND:
                shutil.copy(file, temporary / file.name)
        for shard in sorted(set(ours.values())):
            _mix(shard, theirs, share, temporary / shard.name)


def weight_files(folder: Path) -> dict[str, Path]:
    """Each tensor's name and the file that holds it. Raises UserError for a folder without safetensors."""
    from safetensors import safe_open

    if (folder / INDEX).exists():
        places = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        return {name: folder / file for name, file in places.items()}
    if not (folder / WEIGHTS).exists():
        raise UserError(f"{folder}: holds no {WEIGHTS}; give a Hugging Face folder with whole weights in safetensors")
    with safe_open(folder / WEIGHTS, framework="pt") as weights:
        return dict.fromkeys(weights.keys(), folder / WEIGHTS)


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


def _mix(shard: Path, originals: dict[str, Path], share: float, output: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    mixed: dict[str, Tensor] = {}
    with ExitStack() as stack:
        ours = stack.enter_context(safe_open(shard, framework="pt"))
        names = list(ours.keys())
        opened = {file: stack.enter_context(safe_open(file, framework="pt")) for file in {originals[n] for n in names}}
        for name in names:
            before, after = opened[originals[name]].get_tensor(name).float(), ours.get_tensor(name).float()
            if before.shape != after.shape:
                raise UserError(f"{shard}: {name} has shape {list(after.shape)}, in the original {list(before.shape)}")
            mixed[name] = before.lerp(after, share)
    save_file(mixed, output, metadata={"format": "pt"})
