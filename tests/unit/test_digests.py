"""What files come to: known while they are written, and told apart by every byte."""

import json
from io import BytesIO
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from xxhash import xxh3_128_digest, xxh3_128_hexdigest

from damage import WAYS, flip
from obliviate.digests import DIGESTS, WRITTEN, Hashing, damage_of_folder, digest, read_listed, sealed, unsealed
from obliviate.runs import whole_folder
from obliviate.writer import Writer

TENSORS = {"b": torch.arange(6.0).reshape(3, 2), "a": torch.zeros(0, 2), "c": torch.tensor(3)}
SHAPES = {name: (tuple(each.shape), each.dtype) for name, each in TENSORS.items()}


def test_of_a_plain_file_it_is_that_of_its_bytes(tmp_path: Path) -> None:
    """As `xxhsum -H2` prints it."""
    (tmp_path / "a.txt").write_bytes(b"abc")
    assert digest(tmp_path / "a.txt") == xxh3_128_hexdigest(b"abc") == "06b05ab6733a618578af5f94892f3950"


def test_of_safetensors_it_is_that_of_header_and_tensors(tmp_path: Path) -> None:
    save_file({"x": torch.tensor([1.0]), "y": torch.tensor([2.0])}, tmp_path / "m.safetensors")
    content = (tmp_path / "m.safetensors").read_bytes()
    head, one, two = content[:-8], content[-8:-4], content[-4:]
    assert digest(tmp_path / "m.safetensors") == xxh3_128_hexdigest(b"".join(map(xxh3_128_digest, (head, one, two))))


@pytest.mark.parametrize("way", WAYS[:3])
def test_every_damage_changes_it(tmp_path: Path, way: object) -> None:
    file = tmp_path / "m.safetensors"
    save_file(TENSORS, file)
    before = digest(file)
    way(file)  # type: ignore[operator]
    assert digest(file) != before


@pytest.mark.parametrize("place", [0, 3, 7, 8, 20, 60, -1, -30])
def test_every_byte_counts(tmp_path: Path, place: int) -> None:
    """Also those that say how long the header is, or where a tensor lies."""
    file = tmp_path / "m.safetensors"
    save_file(TENSORS, file)
    before, content = digest(file), bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    assert digest(file) != before


class TestWhileItIsWritten:
    def test_a_writer_knows_what_its_files_come_to(self, tmp_path: Path) -> None:
        writer = Writer(tmp_path, SHAPES)
        writer.write("c", TENSORS["c"])
        writer.write_rows("b", 0, TENSORS["b"][:2])
        writer.write("a", TENSORS["a"])
        writer.write_rows("b", 2, TENSORS["b"][2:])
        writer.close()
        file = tmp_path / "model.safetensors"
        assert read_listed((tmp_path / WRITTEN).read_bytes()) == {file.name: (file.stat().st_size, digest(file))}

    def test_but_of_rows_in_another_order(self, tmp_path: Path) -> None:
        writer = Writer(tmp_path, SHAPES, {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"})
        writer.write_rows("b", 2, TENSORS["b"][2:])
        writer.write_rows("b", 0, TENSORS["b"][:2])
        writer.write("a", TENSORS["a"])
        writer.write("c", TENSORS["c"])
        writer.close()
        assert list(read_listed((tmp_path / WRITTEN).read_bytes())) == ["1.safetensors"]

    def test_a_stream_on_its_way_to_another(self) -> None:
        into = BytesIO()
        stream = Hashing(into)
        stream.write(b"ab")
        stream.write(memoryview(b"c"))
        assert (stream.tell(), into.getvalue(), stream.hexdigest) == (3, b"abc", xxh3_128_hexdigest(b"abc"))

    def test_a_folder_lists_what_is_in_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Cards and hidden files aside; weights are not read for it."""
        read: list[str] = []
        monkeypatch.setattr("obliviate.digests.digest", lambda path: read.append(path.name) or "hash")
        with whole_folder(tmp_path / "model") as folder:
            writer = Writer(folder, SHAPES)
            for name, tensor in TENSORS.items():
                writer.write(name, tensor)
            writer.close()
            for name in ("config.json", "README.md", ".hidden"):
                (folder / name).write_text("{}")
        listed = read_listed((tmp_path / "model" / DIGESTS).read_bytes())
        assert (sorted(listed), read) == (["config.json", "model.safetensors"], ["config.json"])
        assert listed["config.json"] == (2, "hash")
        assert not (tmp_path / "model" / WRITTEN).exists()


class TestAFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        with whole_folder(tmp_path / "model") as temporary:
            (temporary / "config.json").write_text("abcd")
            (temporary / "weights").write_text("efgh")
        return tmp_path / "model"

    def test_is_whole(self, folder: Path) -> None:
        (folder / "README.md").write_text("a card, written later")
        assert damage_of_folder(folder) == {}

    @pytest.mark.parametrize(
        ("way", "said"),
        zip(WAYS, ("is not as it was written", "has 2 of 4 bytes", "has 0 of 4 bytes", "is missing"), strict=True),
    )
    def test_or_is_not(self, folder: Path, way: object, said: str) -> None:
        way(folder / "weights")  # type: ignore[operator]
        assert damage_of_folder(folder) == {"weights": said}

    def test_whose_list_is_damaged(self, folder: Path) -> None:
        flip(folder / DIGESTS)
        assert damage_of_folder(folder) == {DIGESTS: "is not as it was written"}

    def test_without_a_list_nothing_is_known_of(self, folder: Path) -> None:
        (folder / DIGESTS).unlink()
        (folder / "weights").unlink()
        assert damage_of_folder(folder) == {}


class TestSeals:
    @pytest.mark.parametrize("value", [{}, {"a": [1.5, float("nan"), None], "b": {"x": "é"}}, {2: (1,), 10: ()}])
    def test_what_was_sealed_comes_back(self, value: dict[str, object]) -> None:
        text = json.dumps(sealed(value))
        assert json.dumps(unsealed(text)) == json.dumps(json.loads(json.dumps(value)))

    def test_what_was_never_sealed_is_taken_as_it_is(self) -> None:
        assert unsealed('{"a": 1}') == {"a": 1}

    @pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 2, "digest": "0"}', b"\xff{}"])
    def test_anything_else_is_damaged(self, text: str | bytes) -> None:
        with pytest.raises(ValueError, match=r"\w"):
            unsealed(text)

    def test_another_value_under_the_same_seal(self) -> None:
        text = json.dumps(sealed({"steps": 12}))
        with pytest.raises(ValueError, match="is not as it was written"):
            unsealed(text.replace("12", "13"))
