"""The safetensors files that a model's weights lie in: what is in them, without reading it."""

import json
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from obliviate.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
FLOATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # as safetensors and torch call them


class Stored(NamedTuple):
    """Where a tensor lies."""

    file: Path
    name: str  # in the file
    shape: tuple[int, ...]
    kind: str  # as safetensors calls it: "BF16"

    @property
    def dtype(self) -> "torch.dtype | None":
        """None for what is no plain floating-point number, as quantised weights are."""
        import torch

        name = FLOATS.get(self.kind)
        return None if name is None else getattr(torch, name)

    def read(self) -> "Tensor":
        """In memory, and no more of the file with it: what is read of an open one stays until it is closed."""
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as weights:
            tensor: Tensor = weights.get_tensor(self.name)
        return tensor

    @property
    def bytes(self) -> int:
        bits = re.search(r"\d+", self.kind)  # none in BOOL, a byte each
        return prod(self.shape) * (8 if bits is None else int(bits[0])) // 8


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


def stored(folder: Path) -> dict[str, Stored]:
    """Every tensor's place by its name; none where the folder has no safetensors.

    Raises SafetensorError or OSError for files that are cut off or missing.
    """
    from safetensors import safe_open

    if not any((folder / name).exists() for name in (INDEX, WEIGHTS)):
        return {}
    files = weight_files(folder)
    found: dict[str, Stored] = {}
    for file in sorted(set(files.values())):
        with safe_open(file, framework="pt") as weights:
            for name in (name for name in weights.keys() if files.get(name) == file):  # noqa: SIM118
                tensor = weights.get_slice(name)
                found[name] = Stored(file, name, tuple(tensor.get_shape()), tensor.get_dtype())
    return found


def tensors_in(folder: Path) -> dict[str, Stored]:
    """As `stored`. Raises UserError for a folder without safetensors."""
    weight_files(folder)
    return stored(folder)


def main_dtype(tensors: Mapping[str, Stored]) -> "torch.dtype | None":
    """That of most of the bytes; None where there are none, or where they are quantised."""
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        sizes[tensor.kind] = sizes.get(tensor.kind, 0) + tensor.bytes
    if not sizes:
        return None
    most = max(sizes, key=lambda kind: sizes[kind])
    return next(tensor.dtype for tensor in tensors.values() if tensor.kind == most)
