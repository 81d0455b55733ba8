"""Checkpoints in an object store: a run goes on on another node, and an upload that was cut off is no checkpoint."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from obliviate import storage
from obliviate.errors import UserError
from obliviate.train import checkpoint
from obliviate.train.job import CHECKPOINTS, Job
from obliviate.train.log import read_steps
from obliviate.train.loop import single_process, train
from training import job, quiet, weights


@pytest.fixture(autouse=True)
def process_group() -> Iterator[None]:
    with single_process():
        yield


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, tiny: Path, tmp_path: Path) -> Callable[[str], Job]:
    """Call with a node's name: four steps, each with a checkpoint, in a store, as that node sees it."""
    (tmp_path / "bucket").mkdir()

    def switch(node: str) -> Job:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / node))
        return job(tiny, storage.local(f"file://{tmp_path}/bucket/run"), checkpoint_every_steps=1)

    return switch


@pytest.fixture
def run(on: Callable[[str], Job]) -> Job:
    return on("a")


def steps(run: Job) -> list[str]:
    return [path.name for path in storage.folders(run.directory / CHECKPOINTS)]


def dies_in_step_3(metrics: Mapping[str, Any]) -> None:
    if metrics["step"] == 3:  # logged, but its checkpoint is not yet written
        raise KeyboardInterrupt


def test_a_run_goes_on_on_another_node(on: Callable[[str], Job], tiny: Path, tmp_path: Path) -> None:
    """With the steps that were logged before the checkpoint, and to the same weights."""
    undisturbed = weights(train(job(tiny, tmp_path / "whole", checkpoint_every_steps=1), quiet))
    with pytest.raises(KeyboardInterrupt):
        train(on("a"), dies_in_step_3)
    run = on("b")
    assert steps(run) == ["step_000002"]
    again = weights(train(run, quiet))
    assert all(torch.equal(undisturbed[name], again[name]) for name in undisturbed)
    assert [line["step"] for line in read_steps(run.directory)] == [1, 2, 3, 4]
    third = storage.fetch_loose(on("c").directory)
    assert [line["step"] for line in read_steps(third)] == [1, 2, 3, 4]


def test_a_checkpoint_whose_upload_is_cut_off_is_none(run: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the second one, killed before its last file: the first one stays, and is what a run goes on from."""
    put, second = storage._put, "step_000002/.metadata"

    def dies(files: Any, path: Path, key: str) -> None:
        if key.endswith(second):
            raise KeyboardInterrupt
        put(files, path, key)

    monkeypatch.setattr(storage, "_put", dies)
    with pytest.raises(KeyboardInterrupt):
        train(run, quiet)
    assert steps(run) == ["step_000001"]
    assert checkpoint.latest(run.directory / CHECKPOINTS) == run.directory / CHECKPOINTS / "step_000001"
    half = {each.name for each in storage.children(run.directory / CHECKPOINTS / "step_000002")}
    assert half == {"__0_0.distcp", storage.MARK}
    monkeypatch.setattr(storage, "_put", put)
    train(run, quiet)
    assert [line["step"] for line in read_steps(run.directory)] == [1, 2, 3, 4]


def test_a_store_that_refuses_a_checkpoint(run: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    put = storage._put

    def refuses(files: Any, path: Path, key: str) -> None:
        if "step_000002" in key:
            raise OSError("Access Denied")
        put(files, path, key)

    monkeypatch.setattr(storage, "_put", refuses)
    with pytest.raises(UserError, match=r"the checkpoint could not be written \(.*Access Denied.*from step_000001"):
        train(run, quiet)
    assert steps(run) == ["step_000001"]


def test_old_checkpoints_go(run: Job) -> None:
    train(run, quiet)
    assert steps(run) == ["step_000003"]  # none is taken after the last step
    checkpoint.discard(run.directory / CHECKPOINTS, 3)
    assert steps(run) == []
