"""Folders and runs in an object store: whole on every node, or not there at all."""

import json
import os
import shutil
from contextlib import suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pytest

from obliviate import storage
from obliviate.digests import DIGESTS
from obliviate.errors import UserError
from obliviate.models import content_of, locate, portable
from obliviate.runs import DONE_FILE, Run, whole_folder, write_json
from obliviate.schema import ModelSpec
from stores import Node, stored, write_model


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
        assert {each.name for each in storage.fetch(path).iterdir()} == {
            "config.json",
            "weights",
            DIGESTS,
            storage.MARK,
        }
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
        assert content_of(ModelSpec(source=f"{bucket}/llama")) == first  # what it holds, wherever it was fetched to
        (root / "llama" / "config.json").write_text("[]")
        os.utime(root / "llama" / "config.json", ns=(0, 2**62))
        assert content_of(ModelSpec(source=f"{bucket}/llama")) != first

    @pytest.mark.parametrize(
        ("key", "names"), [("run/model", [DIGESTS, "config.json", "weights"]), ("x.gguf", ["x.gguf"])]
    )
    def test_a_node_fetches_a_model_once(
        self, on: Node, bucket: str, monkeypatch: pytest.MonkeyPatch, key: str, names: list[str]
    ) -> None:
        """Eight workers that start together: one copies the folder's three files, or the one, and seven wait for it."""
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
        return Run.at(Path(f"{bucket}/runs"), "unlearn", "npo", {"seed": 0}, {}).begin()

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
