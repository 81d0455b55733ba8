"""GGUF files are read quickly, and as the gguf package reads them."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from transformers.modeling_gguf_pytorch_utils import read_field

from obliviate.gguf_reader import quick_gguf

LISTS = {
    "tokens": ["<s>", "", "Ġzwölf", "a" * 300],
    "scores": [0.5, -1.25],
    "types": [1, 3, 1],
    "flags": [True, False],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name, values in LISTS.items():
        writer.add_array(name, values)
    writer.add_uint32("behind", 7)
    writer.add_tensor("output.weight", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    reader = gguf.GGUFReader(path)
    fields = {name: read_field(reader, name) for name in reader.fields}
    return fields, {tensor.name: tensor.data.tolist() for tensor in reader.tensors}


def test_fields_and_tensors_are_those_of_the_package(file: Path) -> None:
    with quick_gguf({"gguf_file": file.name}):
        quick = read(file)
    assert quick == read(file)
    assert {name: quick[0][name] for name in LISTS} == LISTS
    assert quick[0]["behind"] == [7]
    assert quick[1] == {"output.weight": [[0, 1, 2], [3, 4, 5]]}


def test_the_packages_reader_is_back_afterwards_and_stays_where_no_gguf_is_read() -> None:
    theirs = gguf.GGUFReader
    with quick_gguf({}):
        assert gguf.GGUFReader is theirs
    with quick_gguf({"gguf_file": "a.gguf"}):
        assert gguf.GGUFReader is not theirs
        with pytest.raises(FileNotFoundError):
            gguf.GGUFReader("nowhere.gguf")
    assert gguf.GGUFReader is theirs
