"""A run's folder is found again by what determines its result, and nothing of it is ever half written."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obliviate.config import UnlearnRun, build
from obliviate.errors import UserError
from obliviate.runs import (
    LOCK_FILE,
    RUN_FILE,
    Run,
    content_hash,
    exclusive,
    record_of,
    whole_folder,
    write_json,
    write_whole,
)
from obliviate_recipes.stages.training import resolved

CONFIG = {"method": {"type": "npo"}, "seed": 0}
INPUTS = {"model": "m", "data": "d"}


def test_the_same_config_on_the_same_inputs_is_the_same_run(tmp_path: Path) -> None:
    first = Run.at(tmp_path, "unlearn", "NPO+GD", CONFIG, INPUTS).begin()
    reordered = {"seed": 0, "method": {"type": "npo"}}
    assert Run.at(tmp_path, "unlearn", "NPO+GD", reordered, INPUTS).begin() == first
    assert first.directory.parent == tmp_path
    assert first.directory.name == f"unlearn-npo+gd-{first.content[:10]}"


@pytest.mark.parametrize(
    ("verb", "config", "inputs"),
    [
        ("finetune", CONFIG, INPUTS),
        ("unlearn", {**CONFIG, "seed": 1}, INPUTS),
        ("unlearn", CONFIG, {**INPUTS, "data": "other"}),
        ("unlearn", CONFIG, {**INPUTS, "retain": "r"}),
    ],
)
def test_whatever_changes_the_result_changes_the_folder(
    tmp_path: Path, verb: str, config: dict[str, Any], inputs: dict[str, str]
) -> None:
    first = Run.at(tmp_path, "unlearn", "npo", CONFIG, INPUTS).begin()
    assert Run.at(tmp_path, verb, "npo", config, inputs).begin().directory != first.directory


def test_the_label_is_made_fit_for_a_folder_and_does_not_change_the_content(tmp_path: Path) -> None:
    odd = Run.at(tmp_path, "compare", "Demo: a/b [x]", CONFIG, INPUTS).begin()
    assert odd.directory.name.startswith("compare-demo--a-b--x-")
    assert odd.content == Run.at(tmp_path, "compare", "Other", CONFIG, INPUTS).begin().content


@pytest.mark.parametrize(
    ("label", "slug"),
    [
        ("NPO+GD", "npo+gd"),
        ("v1.0_b", "v1.0_b"),
        (" [x]/y ", "x--y"),
        ("Größe", "größe"),
        ("a" * 59 + "bcd", "a" * 59 + "b"),  # 60 characters at most
    ],
)
def test_a_label_as_a_folders_name(tmp_path: Path, label: str, slug: str) -> None:
    run = Run.at(tmp_path, "unlearn", label, CONFIG, INPUTS).begin()
    assert run.directory.name == f"unlearn-{slug}-{run.content[:10]}"


def test_a_hash_is_that_of_the_json_with_sorted_keys() -> None:
    """printf '{"a": "é", "b": [1, null]}' | sha256sum"""
    expected = "ef8565276ce73f18c6fe81799c2fbbec10b9edd02538e029d7a85e1524225c3c"
    assert content_hash({"b": [1, None], "a": "é"}) == expected


def unlearning(**changed: Any) -> UnlearnRun:
    values = {"model": {"source": "m"}, "data": {"type": "fictitious"}, "method": "npo+gd"}
    return build(UnlearnRun, values, [f"{key}={json.dumps(value)}" for key, value in changed.items()], where="test")


@pytest.mark.parametrize(
    ("key", "value", "matters"),
    [
        ("cluster.workers", 4, False),
        ("cluster.gpus_per_worker", 1, False),
        ("runs", "elsewhere", False),
        ("name", "mine", False),
        ("optim.micro_batch_size", 1, False),
        ("optim.activation_checkpointing", True, False),
        ("optim.checkpoint_every_steps", 1, False),
        ("optim.batch_size", 8, True),
        ("optim.learning_rate", 1e-4, True),
        ("model.compute_dtype", "float32", True),
        ("model.source", "n", True),
        ("method.beta", 0.2, True),
        ("regularizers.0.weight", 2, True),
        ("pairing", "fixed", True),
        ("seed", 1, True),
    ],
)
def test_where_a_run_computes_does_not_matter_and_what_it_computes_does(key: str, value: object, matters: bool) -> None:
    changed = content_hash(resolved(unlearning(**{key: value})))
    assert (changed != content_hash(resolved(unlearning()))) is matters


def test_run_json_records_what_is_needed_to_reproduce(tmp_path: Path) -> None:
    run = Run.at(tmp_path, "unlearn", "npo", CONFIG, INPUTS).begin()
    record = json.loads((run.directory / RUN_FILE).read_text())
    assert record["config"] == CONFIG
    assert record["inputs"] == INPUTS
    assert record["content"] == content_hash({"verb": "unlearn", "config": CONFIG, "inputs": INPUTS})
    assert {"torch", "transformers", "ray"} <= record["versions"].keys()
    assert "git_revision" in record
    (run.directory / RUN_FILE).write_text("{}")
    Run.at(tmp_path, "unlearn", "npo", CONFIG, INPUTS).begin()
    assert (run.directory / RUN_FILE).read_text() == "{}"  # a record is written once, when the run begins


def test_run_json_says_what_the_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBLIVIATE_REVISION", "0123456789ab")
    before = datetime.now(UTC).replace(microsecond=0)
    run = Run.at(tmp_path, "unlearn", "NPO é", CONFIG, INPUTS, whole_config={**CONFIG, "runs": "elsewhere"}).begin()
    record = record_of(run.directory)
    assert (record["verb"], record["label"], record["content"]) == ("unlearn", "NPO é", run.content)
    assert record["config"] == {**CONFIG, "runs": "elsewhere"}
    assert (
        run.content == Run.at(tmp_path, "unlearn", "NPO é", CONFIG, INPUTS).begin().content
    )  # which is not of the whole
    assert record["created"] == datetime.fromisoformat(record["created"]).isoformat(timespec="seconds")
    assert before <= datetime.fromisoformat(record["created"]) <= datetime.now(UTC)
    assert record["git_revision"] == "0123456789ab"


def test_a_record_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_text("{")
    with pytest.raises(UserError, match=r"run\.json: is no JSON \(.*\); restore the file, or make the run again$"):
        record_of(tmp_path)


def test_runs_in_a_place_that_takes_no_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        Run.at(tmp_path / "file", "unlearn", "npo", CONFIG, INPUTS).begin()
    root = tmp_path / "file"
    assert str(caught.value) == f"runs: {root}: cannot be written (Not a directory); give another folder"


def test_a_run_is_done_when_it_says_so(tmp_path: Path) -> None:
    run = Run.at(tmp_path, "unlearn", "npo", CONFIG, INPUTS).begin()
    assert not run.done
    run.finish(model="model", steps=6)
    again = Run.at(tmp_path, "unlearn", "npo", CONFIG, INPUTS).begin()
    assert again.done
    assert again.summary == {"model": "model", "steps": 6}


def test_a_folder_is_no_place_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path, Path(".")):
        with pytest.raises(UserError, match=r": is a folder; give the path of a file in it$"):
            write_json(place, {})
    assert list(tmp_path.iterdir()) == []


class TestWrittenWhole:
    """A writer that fails leaves what was there, and no litter."""

    def test_a_file_is_replaced_at_once(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "figures.json"
        write_json(path, {"a": 1})
        write_json(path, {"a": 2})
        assert json.loads(path.read_text()) == {"a": 2}
        assert [each.name for each in path.parent.iterdir()] == ["figures.json"]

    def test_json_is_indented_and_its_letters_are_kept(self, tmp_path: Path) -> None:
        write_json(tmp_path / "deep" / "er" / "figures.json", {"a": "é"})
        assert (tmp_path / "deep" / "er" / "figures.json").read_bytes() == '{\n  "a": "é"\n}\n'.encode()

    def test_a_file_is_written_beside_where_it_will_be(self, tmp_path: Path) -> None:
        """On the same file system, hidden, and under no name that another writer has."""
        names = []

        def writes(temporary: Path) -> None:
            assert temporary.parent == tmp_path
            names.append(temporary.name)
            temporary.write_text("new")

        for _ in range(2):
            write_whole(tmp_path / "figures.json", writes)
        assert all(name.startswith(".figures.json.") and name.endswith(".tmp") for name in names)
        assert names[0] != names[1]

    def test_everything_is_on_disk_before_it_takes_its_place(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else a machine that loses its power keeps the name and loses what is in the file."""
        synced, fsync = [], os.fsync

        def watched(descriptor: int) -> None:
            fsync(descriptor)
            written = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            synced.append((written.suffix, written.read_text(), (tmp_path / "figures.json").exists()))

        monkeypatch.setattr("os.fsync", watched)
        write_json(tmp_path / "figures.json", 1)
        assert synced == [(".tmp", "1\n", False)]
        with whole_folder(tmp_path / "model") as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / "a.b").write_text("one")
            (temporary / "c.d").write_text("two")
        *files, listed = sorted(synced[1:])
        assert files == [(".b", "one", True), (".d", "two", True)]
        assert (listed[0], list(json.loads(listed[1])["files"])) == (".json", ["c.d", "sub/a.b"])

    def test_a_file_stays_where_the_writer_fails(self, tmp_path: Path) -> None:
        path = tmp_path / "figures.json"
        path.write_text("old")

        def fails_half_way(temporary: Path) -> None:
            temporary.write_text("ha")
            raise OSError("no space left on device")

        with pytest.raises(OSError, match="no space"):
            write_whole(path, fails_half_way)
        assert path.read_text() == "old"
        assert [each.name for each in tmp_path.iterdir()] == ["figures.json"]

    def test_what_a_disk_refuses_names_the_file(self, tmp_path: Path) -> None:
        """A write through an open file does not tell by itself which one it was."""

        def full(_: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with pytest.raises(OSError) as caught:
            write_whole(tmp_path / "figures.json", full)
        assert caught.value.filename == str(tmp_path / "figures.json")

    def test_nan_is_no_json(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(tmp_path / "figures.json", {"a": float("nan")})
        assert not list(tmp_path.iterdir())

    def test_a_folder_is_replaced_at_once(self, tmp_path: Path) -> None:
        for name in ("old", "new"):
            with whole_folder(tmp_path / "model") as temporary:
                (temporary / "sub").mkdir()
                (temporary / "sub" / name).write_text(name)
                assert not (tmp_path / "model" / "sub" / "new").exists()
        assert [each.name for each in (tmp_path / "model" / "sub").iterdir()] == ["new"]
        assert [each.name for each in tmp_path.iterdir()] == ["model"]

    def test_a_folder_is_made_beside_where_it_will_be(self, tmp_path: Path) -> None:
        with whole_folder(tmp_path / "deep" / "er" / "model") as temporary:
            assert temporary.parent == tmp_path / "deep" / "er"
            assert temporary.name.startswith(".model.")
            assert list(temporary.iterdir()) == []
        assert (tmp_path / "deep" / "er" / "model").is_dir()

    def test_a_folder_stays_where_the_writer_fails(self, tmp_path: Path) -> None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "weights").write_text("old")

        def fails_half_way() -> None:
            with whole_folder(tmp_path / "model") as temporary:
                (temporary / "weights").write_text("ne")
                raise OSError("no space left on device")

        with pytest.raises(OSError, match="no space"):
            fails_half_way()
        assert (tmp_path / "model" / "weights").read_text() == "old"
        assert [each.name for each in tmp_path.iterdir()] == ["model"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=3), each, max_size=3),
    max_leaves=5,
)


@given(json_values, json_values)
def test_two_values_share_a_hash_only_if_their_json_is_the_same(first: object, second: object) -> None:
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (content_hash(first) == content_hash(second)) is same


class TestLocked:
    """One process at a time writes a run."""

    def other(self, run: Run, then: str) -> "subprocess.Popen[str]":
        """Another process that has locked the run when this returns."""
        code = f"""
import sys, time
from pathlib import Path
from obliviate.runs import Run
with Run(Path({str(run.directory)!r}), "").locked():
    print("locked", flush=True)
    {then}
"""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        return process

    def test_a_second_one_is_told_who_has_it(self, tmp_path: Path) -> None:
        run = Run.at(tmp_path, "unlearn", "npo", CONFIG, INPUTS).begin()
        with self.other(run, "sys.stdin.read()") as first:
            with pytest.raises(UserError) as caught, run.locked():
                pytest.fail("two processes have the run")
            first.kill()
        assert str(caught.value).startswith(
            f"{run.directory}: another process is writing this run (process {first.pid} on "
        )
        with run.locked():  # the dead one's lock went with it
            pass

    def test_a_file_system_without_locks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def flock(*_: object) -> None:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr("fcntl.flock", flock)
        run = Run.at(tmp_path, "unlearn", "npo", CONFIG, INPUTS).begin()
        with run.locked():
            pass
        assert caplog.messages == [
            f"{run.directory}: no locks on this file system (Function not implemented): start each run once"
        ]

    def test_who_waits_gets_it_when_the_first_has_ended(self, tmp_path: Path) -> None:
        run = Run.at(tmp_path, "unlearn", "npo", CONFIG, INPUTS).begin()
        then = f"time.sleep(0.5); Path({str(run.directory / 'ended')!r}).write_text('done')"
        with self.other(run, then), run.locked(wait=True):
            assert (run.directory / "ended").read_text() == "done"

    def test_the_one_that_has_it_now_is_named(self, tmp_path: Path) -> None:
        """And not what a longer line said of the one before."""
        run = Run.at(tmp_path, "unlearn", "npo", CONFIG, INPUTS).begin()
        lock = run.directory / LOCK_FILE
        lock.write_text("process 1234567890 on a machine with a very, very long name")
        with run.locked():
            assert lock.read_text() == f"process {os.getpid()} on {socket.gethostname()}"

    def test_one_that_has_just_begun_has_no_name_yet(self, tmp_path: Path) -> None:
        run = Run.at(tmp_path, "unlearn", "npo", CONFIG, INPUTS).begin()
        with (run.directory / LOCK_FILE).open("w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with (
                pytest.raises(UserError, match=r"another process is writing this run \(starting\); wait"),
                run.locked(),
            ):
                pytest.fail("two have the run")


def test_a_file_that_is_read_and_replaced_is_one_processs_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "ledger.json"
    lock = path.with_name(".ledger.json.lock")

    def free() -> bool:
        with lock.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    with exclusive(path):
        assert not free()
    assert free()
    with exclusive(path):  # its folder is there already
        assert not free()
