"""Names and files in an object store: what a node writes, another node finds, whole or not."""

import json
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obliviate import storage
from obliviate.data.rows import read_rows
from obliviate.data.source import folder_of
from obliviate.data.tables import KINDS
from obliviate.errors import UserError
from obliviate.models import content_of, portable
from obliviate.runs import write_json
from obliviate.schema import ModelSpec
from stores import Node, stored, write_model


class TestNames:
    @pytest.mark.parametrize("url", ["s3://bucket/runs", "gs://bucket/a/b+c/run.json", "file:///mnt/disk/runs"])
    def test_a_url_stands_for_a_path_and_back(self, on: Node, url: str) -> None:
        path = storage.local(url)
        assert path.is_absolute()
        assert storage.url_of(path) == url
        assert storage.name(path) == url
        assert storage.url_of(path / "model") == f"{url}/model"
        assert storage.local(Path(url)) == path  # a Path makes one slash of two

    @given(st.text("abc/.+-_ 0", min_size=1).filter(lambda key: ".." not in key and key.strip("/. ")))
    def test_whatever_the_key(self, key: str) -> None:
        normal = "/".join(part for part in f"bucket/{key}".split("/") if part not in ("", "."))
        assert storage.url_of(storage.local(f"s3://bucket/{key}")) == f"s3://{normal}"

    def test_a_path_is_itself(self, on: Node, tmp_path: Path) -> None:
        assert storage.local("runs") == Path("runs")
        assert storage.url_of(tmp_path) is None
        assert storage.name(Path("runs")) == str(Path.cwd() / "runs")
        assert storage.fetch(tmp_path / "none") == tmp_path / "none"
        assert storage.for_ray(tmp_path) == (str(tmp_path), None)

    def test_a_way_out_of_the_cache(self, on: Node) -> None:
        with pytest.raises(UserError, match=r"^s3://bucket/../../etc: a URL with '..' in it"):
            storage.local("s3://bucket/../../etc")

    @pytest.mark.parametrize("url", ["gcs://bucket/runs", "S3://bucket/runs", "https://host/runs"])
    def test_a_url_of_no_store(self, on: Node, url: str) -> None:
        """Taken for a path it would be a folder of that name in the working directory, which on a cluster is lost."""
        for each in (url, Path(url)):
            with pytest.raises(UserError, match=r": is no URL of a store; give s3://BUCKET/KEY, gs://BUCKET/KEY, "):
                storage.local(each)

    def test_ray_gets_the_store_itself(self, on: Node, bucket: str, tmp_path: Path) -> None:
        path, files = storage.for_ray(storage.local(f"{bucket}/runs"))
        assert (path, files.type_name) == (f"{tmp_path}/bucket/runs", "local")


class TestFiles:
    def test_what_is_written_whole_is_uploaded(self, on: Node, bucket: str) -> None:
        write_json(storage.local(f"{bucket}/run/done.json"), {"steps": 6})
        assert json.loads(stored(bucket)["run/done.json"]) == {"steps": 6}
        assert list(stored(bucket)) == ["run/done.json"]

    def test_another_node_finds_it_and_what_came_later(self, on: Node, bucket: str) -> None:
        path = storage.local(f"{bucket}/run/done.json")
        write_json(path, 1)
        on("b")
        there = storage.local(f"{bucket}/run/done.json")
        assert there != path
        assert json.loads(storage.fetch(there).read_text()) == 1
        os.utime(Path(bucket.removeprefix("file://")) / "run/done.json", ns=(0, there.stat().st_mtime_ns + 1))
        on("a")
        write_json(path, 22)
        on("b")
        assert json.loads(storage.fetch(there).read_text()) == 22

    def test_a_file_that_is_still_being_written_here_stays(self, on: Node, bucket: str) -> None:
        path = storage.local(f"{bucket}/run/steps.jsonl")
        path.parent.mkdir(parents=True)
        path.write_text("1\n")
        storage.upload(path)
        path.write_text("1\n2\n")
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))  # a coarse clock may not tell
        assert storage.fetch(path).read_text() == "1\n2\n"

    def test_an_upload_that_arrived_in_part(self, on: Node, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def half(source_path: str, destination_path: str, **_: Any) -> None:
            Path(destination_path).write_bytes(Path(source_path).read_bytes()[:3])

        monkeypatch.setattr(storage, "_copy", half)
        with pytest.raises(UserError, match=r"run/done.json: the store cannot be read or written \(3 of 8 bytes have "):
            write_json(storage.local(f"{bucket}/run/done.json"), "abcde")
        assert stored(bucket) == {}

    def test_what_the_store_has_not_is_not_here_either(
        self, on: Node, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else this node would take for done what no other node finds, and never send it again."""

        def refuses(*_: Any) -> None:
            raise OSError("credentials have expired")

        with monkeypatch.context() as patched:
            patched.setattr(storage, "_put", refuses)
            with pytest.raises(UserError, match=r"run/done.json: the store cannot be .* \(credentials have expired\)"):
                write_json(storage.local(f"{bucket}/run/done.json"), 1)
            with pytest.raises(UserError, match=r"run/model: the store cannot be .* \(credentials have expired\)"):
                write_model(bucket, "w")
        assert list(storage.local(f"{bucket}/run").iterdir()) == []


class Replaced:
    """A mark's reader finds part of the old one and of the new one, or no end, as often as it is told, then the new
    one."""

    def __init__(self, torn: int = 0, broken: int = 0) -> None:
        self.torn, self.broken = torn, broken

    def open_input_stream(self, key: str) -> BytesIO:
        self.broken -= 1
        if self.broken >= 0:
            raise OSError("Failed to flush response stream")
        self.torn -= 1
        return BytesIO(b'{"whole": false}"id": "1"}' if self.torn >= 0 else b'{"whole": true, "id": "1"}')


def test_a_mark_that_is_replaced_while_it_is_read_is_read_again() -> None:
    assert storage._read(Replaced(torn=3), "key") == {"whole": True, "id": "1"}
    with pytest.raises(OSError, match="key is no mark: "):
        storage._read(Replaced(torn=100), "key")
    assert storage._read(Replaced(torn=1, broken=2), "key") == {"whole": True, "id": "1"}
    with pytest.raises(OSError, match="key is no mark: Failed to flush response stream"):
        storage._read(Replaced(broken=100), "key")


def test_a_template_file_by_url(on: Node, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "bucket" / "chat.jinja").write_text("{{ messages }}")
    given = ModelSpec(source="org/name", chat_template=f"{bucket}/chat.jinja")
    assert portable(given).chat_template == "{{ messages }}"
    assert content_of(given) != content_of(ModelSpec(source="org/name"))


def test_data_by_url(on: Node, bucket: str, tmp_path: Path) -> None:
    rows = tmp_path / "bucket" / "data" / "forget.jsonl"
    rows.parent.mkdir()
    rows.write_text('{"question": "Who?", "answer": "Ada."}\n')
    assert read_rows(f"{bucket}/data/forget.jsonl")[0].answer == "Ada."
    folder = folder_of(f"{bucket}/data")
    assert folder is not None
    assert (folder / "forget.jsonl").exists()
    with pytest.raises(
        UserError,
        match=rf"^{bucket}/none.jsonl: no such file; give a {KINDS}",
    ):
        read_rows(f"{bucket}/none.jsonl")
    with pytest.raises(UserError, match=rf"^data.source: {bucket}/none: no such folder"):
        folder_of(f"{bucket}/none")
