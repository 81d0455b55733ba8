"""An object store's stand-ins, with a folder used like a store: what a node writes, another node finds, whole or not.

Two nodes are two caches.
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obliviate import storage
from obliviate.data.rows import read_rows
from obliviate.data.source import folder_of
from obliviate.errors import UserError
from obliviate.models import content_of, locate, portable
from obliviate.runs import DONE_FILE, Run, whole_folder, write_json
from obliviate.schema import ModelSpec

Node = Callable[[str], None]


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Node:
    """Call with a node's name: from then on this process is on it."""

    def switch(node: str) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nodes" / node))

    switch("a")
    return switch


@pytest.fixture
def bucket(tmp_path: Path) -> str:
    (tmp_path / "bucket").mkdir()
    return f"file://{tmp_path}/bucket"


def stored(bucket: str) -> dict[str, str]:
    """Key -> content."""
    root = Path(bucket.removeprefix("file://"))
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


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


def write_model(bucket: str, weights: str, **more: str) -> Path:
    """As training exports one: into a run of this node's cache."""
    path = storage.local(f"{bucket}/run/model")
    with whole_folder(path) as temporary:
        for name, text in {"config.json": "{}", "weights": weights, **more}.items():
            (temporary / name).write_text(text)
    return path


class TestFolders:
    def test_a_folder_is_there_whole(self, on: Node, bucket: str) -> None:
        write_model(bucket, "w")
        assert json.loads(stored(bucket)["run/model/.folder.json"])["whole"] is True
        on("b")
        path = storage.local(f"{bucket}/run/model")
        assert storage.is_folder(path)
        assert not path.exists()  # nothing is fetched to know it
        assert (storage.fetch(path) / "weights").read_text() == "w"

    def test_a_folder_in_its_place(self, on: Node, bucket: str) -> None:
        """Files that the new one has not are gone, on every node."""
        write_model(bucket, "old", shard="s")
        on("b")
        path = storage.fetch(storage.local(f"{bucket}/run/model"))
        assert (path / "shard").exists()
        on("a")
        write_model(bucket, "new")
        on("b")
        assert {each.name for each in storage.fetch(path).iterdir()} == {"config.json", "weights", storage.MARK}
        assert (path / "weights").read_text() == "new"

    @pytest.mark.parametrize("files", [0, 1, 2])
    def test_an_upload_that_is_cut_off_leaves_nothing_whole(
        self, on: Node, bucket: str, monkeypatch: pytest.MonkeyPatch, files: int
    ) -> None:
        """The process dies before its first, second or third file, of a model that takes an older one's place."""
        write_model(bucket, "old")
        put, done = storage._put, 0

        def dies(*arguments: Any) -> None:
            nonlocal done
            if done == files:
                raise KeyboardInterrupt
            done += 1
            put(*arguments)

        monkeypatch.setattr(storage, "_put", dies)
        with pytest.raises(KeyboardInterrupt):
            write_model(bucket, "new", shard="s")
        on("b")
        path = storage.local(f"{bucket}/run/model")
        assert not storage.is_folder(path)
        assert storage.folders(path.parent) == []
        assert not storage.fetch(path).exists()
        with pytest.raises(
            UserError, match=r"run/model: there is no whole model: nothing, or an upload that was cut off"
        ):
            locate(f"{bucket}/run/model")
        monkeypatch.setattr(storage, "_put", put)
        on("a")
        write_model(bucket, "new", shard="s")
        on("b")
        assert (storage.fetch(path) / "shard").read_text() == "s"

    @pytest.mark.parametrize("whole", [False, True])
    def test_a_folder_in_one_that_is_cut_off(
        self, on: Node, bucket: str, monkeypatch: pytest.MonkeyPatch, whole: bool
    ) -> None:
        """A trial's whole run is promoted as one folder: the model in it has no mark of its own."""
        put = storage._put

        def dies(files: Any, path: Path, key: str) -> None:
            if path.name == "weights" and not whole:
                raise KeyboardInterrupt
            put(files, path, key)

        monkeypatch.setattr(storage, "_put", dies)
        with suppress(KeyboardInterrupt), whole_folder(storage.local(f"{bucket}/models/best")) as temporary:
            (temporary / "model").mkdir()
            for name in ("config.json", "weights"):
                (temporary / "model" / name).write_text("{}")
        assert "models/best/model/config.json" in stored(bucket)
        on("b")
        path = storage.local(f"{bucket}/models/best/model")
        assert storage.is_folder(path) == whole
        assert storage.fetch(path).exists() == whole

    def test_a_whole_bucket_lies_in_no_folder(self) -> None:
        class Bucket:
            def get_file_info(self, key: str) -> None:
                pytest.fail(f"asked for {key}, of which no store can have a bucket")

        assert not storage._in_unfinished(Bucket(), "bucket")

    def test_two_nodes_that_upload_the_same_folder(
        self, on: Node, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second begins anew when the first has uploaded a file: the first must not call the rest a whole model."""
        put, path = storage._put, storage.local(f"{bucket}/run/model")

        def interrupted(*arguments: Any) -> None:
            put(*arguments)
            monkeypatch.setattr(storage, "_put", put)
            storage.begin_folder(path)

        monkeypatch.setattr(storage, "_put", interrupted)
        with pytest.raises(UserError, match=r"run/model: another process uploads this folder at the same time; run "):
            write_model(bucket, "w")
        assert not storage.is_folder(path)
        write_model(bucket, "w")
        assert storage.is_folder(path)

    def test_somebody_elses_folder_has_no_mark(self, on: Node, bucket: str) -> None:
        root = Path(bucket.removeprefix("file://"))
        (root / "llama").mkdir()
        (root / "llama" / "config.json").write_text("{}")
        assert Path(locate(f"{bucket}/llama"), "config.json").read_text() == "{}"
        assert storage.is_folder(storage.local(f"{bucket}/llama"))
        assert not storage.is_folder(storage.local(f"{bucket}/none"))
        first = content_of(ModelSpec(source=f"{bucket}/llama"))
        on("b")
        assert content_of(ModelSpec(source=f"{bucket}/llama")) == first  # the store's times, not the disk's
        os.utime(root / "llama" / "config.json", ns=(0, 2**62))
        assert content_of(ModelSpec(source=f"{bucket}/llama")) != first

    @pytest.mark.parametrize(("key", "names"), [("run/model", ["config.json", "weights"]), ("x.gguf", ["x.gguf"])])
    def test_a_node_fetches_a_model_once(
        self, on: Node, bucket: str, monkeypatch: pytest.MonkeyPatch, key: str, names: list[str]
    ) -> None:
        """Eight workers that start together: one copies the folder's two files, or the one, and seven wait for it."""
        write_model(bucket, "w")
        (Path(bucket.removeprefix("file://")) / "x.gguf").write_text("w")
        on("b")
        copied: list[str] = []
        copy = storage._copy

        def counted(source_path: str, destination_path: str, **files: Any) -> None:
            copied.append(Path(source_path).name)
            copy(source_path, destination_path, **files)

        monkeypatch.setattr(storage, "_copy", counted)
        with ThreadPool(8) as pool:
            found = pool.map(locate, [f"{bucket}/{key}"] * 8)
        assert len(set(found)) == 1
        assert sorted(copied) == names

    def test_a_removed_folder_is_gone(self, on: Node, bucket: str) -> None:
        path = write_model(bucket, "w")
        storage.remove(path)
        assert not path.exists()
        assert stored(bucket) == {}
        storage.remove(path)
        write_json(path / "0.json", {})  # of a folder without a mark nothing is left, either
        storage.remove(path)
        assert stored(bucket) == {}

    def test_a_folder_that_is_removed_while_it_is_looked_for(
        self, on: Node, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_model(bucket, "w")
        listed = storage._list(*storage._open(storage.name(path.parent)))
        storage.remove(path)
        monkeypatch.setattr(storage, "_list", lambda *_: listed)
        assert storage.folders(path.parent) == []

    @pytest.mark.parametrize(("above", "marks"), [(0, 1), (1, 2)])
    def test_a_removal_that_is_cut_off_leaves_nothing_whole(
        self, on: Node, bucket: str, monkeypatch: pytest.MonkeyPatch, above: int, marks: int
    ) -> None:
        """Of the folder itself, or of one around it, whose mark is written besides: dies before the first file goes."""
        path = write_model(bucket, "w")
        write, written = storage._write, 0

        def dies(files: Any, key: str, value: dict[str, Any]) -> None:
            nonlocal written
            write(files, key, value)
            written += 1
            if written == marks:
                raise KeyboardInterrupt

        monkeypatch.setattr(storage, "_write", dies)
        with pytest.raises(KeyboardInterrupt):
            storage.remove([path, path.parent][above])
        assert "run/model/weights" in stored(bucket)
        assert not storage.is_folder(path)


class TestRuns:
    def open(self, bucket: str) -> Run:
        return Run.open(Path(f"{bucket}/runs"), "unlearn", "npo", {"seed": 0}, {})

    def test_another_node_finds_it_done(self, on: Node, bucket: str) -> None:
        """With all of its files but its model, which comes where it is needed."""
        run = self.open(bucket)
        assert not run.done
        with whole_folder(run.directory / "model") as temporary:
            (temporary / "weights").write_text("w")
        write_json(run.directory / "answers" / "0.json", {})
        run.finish(steps=6)
        on("b")
        again = self.open(bucket)
        assert again.done
        assert again.summary == {"steps": 6}
        assert (again.directory / "answers" / "0.json").exists()
        assert not (again.directory / "model").exists()
        assert [each.name for each in storage.children(again.directory)] == ["answers", DONE_FILE, "model", "run.json"]
        assert again.content == run.content

    def test_a_run_that_was_removed_in_the_store_is_begun_anew(self, on: Node, bucket: str) -> None:
        """Its files on this disk would say that it is done."""
        run = self.open(bucket)
        run.finish(steps=6)
        shutil.rmtree(Path(bucket.removeprefix("file://")) / "runs")
        again = self.open(bucket)
        assert not again.done
        assert list(stored(bucket)) == [f"runs/{run.directory.name}/run.json"]

    def test_a_model_in_a_store_keeps_its_url(self, on: Node, bucket: str) -> None:
        """It is recorded, and travels to other nodes, by what every node understands."""
        write_model(bucket, "w")
        assert portable(ModelSpec(source=f"{bucket}/run/model")).source == f"{bucket}/run/model"

    def test_a_cache_that_was_lost_costs_a_fetch(self, on: Node, bucket: str, tmp_path: Path) -> None:
        self.open(bucket).finish(steps=6)
        shutil.rmtree(tmp_path / "nodes")
        assert self.open(bucket).done

    def test_a_store_that_cannot_be_read(self, on: Node, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(
            UserError, match=r"^file://.*: the store cannot be read or written \(.*\); check the bucket"
        ):
            self.open(f"file://{tmp_path}/file/bucket")


class Replaced:
    """A mark's reader finds part of the old one and part of the new one, as often as it is told, then the new one."""

    def __init__(self, torn: int) -> None:
        self.torn = torn

    def open_input_stream(self, key: str) -> BytesIO:
        self.torn -= 1
        return BytesIO(b'{"whole": false}"id": "1"}' if self.torn >= 0 else b'{"whole": true, "id": "1"}')


def test_a_mark_that_is_replaced_while_it_is_read_is_read_again() -> None:
    assert storage._read(Replaced(torn=3), "key") == {"whole": True, "id": "1"}
    with pytest.raises(OSError, match="key is no mark: "):
        storage._read(Replaced(torn=100), "key")


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
    with pytest.raises(UserError, match=rf"^{bucket}/none.jsonl: no such file; give a .json, .jsonl or .parquet file"):
        read_rows(f"{bucket}/none.jsonl")
    with pytest.raises(UserError, match=rf"^data.source: {bucket}/none: no such folder"):
        folder_of(f"{bucket}/none")
