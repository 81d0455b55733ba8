"""A model's weights to safetensors files, one tensor at a time."""

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from xxhash import xxh3_128

from obliviate.digests import WRITTEN, combined, write_listed
from obliviate.weights import INDEX, WEIGHTS

SHARD_BYTES = 50 * 10**9  # of a file, as transformers writes them
KINDS = {  # as safetensors calls them
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def written_as(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """What is no floating-point number stays what it is."""
    return dtype if tensor.is_floating_point() else tensor.dtype


def _bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    return prod(shape) * dtype.itemsize


class Writer:
    """Tensors to safetensors files, in whatever order they come: none but the one at hand is in memory. What the files
    come to is written down beside them, unless a tensor's rows came in another order than theirs.

    `tensors`: the shape and dtype of each, by its name. `files`: the name of the file that each goes to; where it is
    not given, into as few as there need to be.
    """

    def __init__(
        self,
        folder: Path,
        tensors: Mapping[str, tuple[Sequence[int], torch.dtype]],
        files: Mapping[str, str] | None = None,
    ) -> None:
        # Wide numbers first, as the format's own writer has it, so that each lies at a multiple of its size.
        names = sorted(tensors, key=lambda name: (-tensors[name][1].itemsize, name))
        self._folder, self._tensors = folder, tensors
        self._places: dict[str, tuple[Path, int]] = {}
        self._headers: dict[Path, bytes] = {}
        self._hashes = {name: xxh3_128() for name in names}
        self._hashed = dict.fromkeys(names, 0)  # rows of each that its hash is of
        shards: dict[str, list[str]] = {}
        places = files or self._shards(names)
        for name in names:
            shards.setdefault(places[name], []).append(name)
        for file, shard in shards.items():
            self._begin(folder / file, shard)
        if list(shards) != [WEIGHTS]:
            total = sum(_bytes(*tensor) for tensor in tensors.values())
            places = {name: place.name for name, (place, _) in self._places.items()}
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        self._left = {name: prod(tensors[name][0]) for name in names}

    def _shards(self, names: Sequence[str]) -> dict[str, str]:
        """The file of each tensor, filled in this order."""
        numbers: dict[str, int] = {}
        number, filled = 1, 0
        for name in names:
            size = _bytes(*self._tensors[name])
            if filled and filled + size > SHARD_BYTES:
                number, filled = number + 1, 0
            numbers[name] = number
            filled += size
        if number == 1:
            return dict.fromkeys(names, WEIGHTS)
        return {name: f"model-{each:05d}-of-{number:05d}.safetensors" for name, each in numbers.items()}

    def _begin(self, file: Path, names: Sequence[str]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in names:
            shape, dtype = self._tensors[name]
            begin, end = end, end + _bytes(shape, dtype)
            header[name] = {"dtype": KINDS[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        text = json.dumps(header, ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self._headers[file] = len(text).to_bytes(8, "little") + text
        with file.open("wb") as handle:
            handle.write(self._headers[file])
            handle.truncate(8 + len(text) + end)
        for name in names:
            self._places[name] = (file, 8 + len(text) + header[name]["data_offsets"][0])

    def write(self, name: str, tensor: Tensor) -> None:
        """A whole tensor, converted to the dtype that was said of it."""
        shape, _ = self._tensors[name]
        assert tuple(tensor.shape) == tuple(shape), f"{name}: {list(tensor.shape)}, not {list(shape)}"
        self.write_rows(name, 0, tensor)

    def write_rows(self, name: str, begin: int, rows: Tensor) -> None:
        """A part of a tensor along its first dimension, beginning with the row `begin`."""
        shape, dtype = self._tensors[name]
        file, offset = self._places[name]
        numbers = rows.detach().to("cpu", dtype).contiguous().flatten()
        content = numbers.view(torch.uint8).numpy().data
        with file.open("r+b") as handle:
            handle.seek(offset + begin * _bytes(shape[1:], dtype))
            handle.write(content)
        self._left[name] -= numbers.numel()
        if begin == self._hashed[name]:
            self._hashes[name].update(content)
            self._hashed[name] += rows.shape[0] if shape else 1

    def close(self) -> None:
        left = [name for name, count in self._left.items() if count]
        assert not left, f"not written, or twice: {left[:3]}"
        files: dict[Path, list[str]] = {}
        for name, (file, _) in sorted(self._places.items(), key=lambda place: place[1][1]):
            files.setdefault(file, []).append(name)
        listed = {
            file.name: (file.stat().st_size, combined(self._headers[file], [self._hashes[n].digest() for n in names]))
            for file, names in files.items()
            if all(self._hashed[name] == (self._tensors[name][0] or [1])[0] for name in names)
        }
        write_listed(self._folder / WRITTEN, listed)
