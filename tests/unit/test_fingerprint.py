"""A model is known by its bytes: a copy is the same, a changed byte is not, and a file is read once."""

import os
import shutil
from pathlib import Path

import pytest

from obliviate import fingerprint as module
from obliviate.fingerprint import fingerprint
from obliviate.models import content_of
from obliviate.schema import ModelSpec

SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module._fingerprint.cache_clear()
    return tmp_path / "cache" / "obliviate" / "fingerprints"


def test_it_is_the_files_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert fingerprint(tmp_path / "file") == SHA256_OF_ABC
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert fingerprint(tmp_path / "link") == SHA256_OF_ABC


def test_a_file_is_read_again_when_its_size_or_time_is_another(tmp_path: Path, memory: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    first = fingerprint(file)
    file.write_bytes(b"abd")
    os.utime(file, ns=(1, 1))
    assert fingerprint(file) != first
    assert len(list(memory.iterdir())) == 1  # of a path the last alone


def test_another_process_reads_nothing(tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    fingerprint(file)
    module._fingerprint.cache_clear()
    monkeypatch.setattr("hashlib.file_digest", None)
    assert fingerprint(file) == SHA256_OF_ABC


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"path": 1}', b"\xff"])
def test_a_damaged_memory_is_made_anew(tmp_path: Path, memory: Path, damage: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    fingerprint(file)
    [kept] = memory.iterdir()
    kept.write_bytes(damage)
    module._fingerprint.cache_clear()
    assert fingerprint(file) == SHA256_OF_ABC


def test_a_home_that_cannot_be_written_to_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no folder").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no folder"))
    (tmp_path / "file").write_bytes(b"abc")
    assert fingerprint(tmp_path / "file") == SHA256_OF_ABC


def test_a_copied_model_is_the_same_and_another_one_is_not(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "copy", copy_function=shutil.copyfile)  # with times of its own
    assert content_of(ModelSpec(source=str(tmp_path / "copy"))) == content_of(ModelSpec(source=str(tiny)))
    shutil.copytree(tiny, tmp_path / "other")
    (tmp_path / "other" / "config.json").write_bytes((tiny / "config.json").read_bytes() + b" ")
    assert content_of(ModelSpec(source=str(tmp_path / "other"))) != content_of(ModelSpec(source=str(tiny)))
