"""A checkpoint that a disk has damaged is passed over for the newest whole one, and what is trained is the same."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from damage import WAYS, delete, flip
from obliviate import storage
from obliviate.digests import digest
from obliviate.methods import NPO
from obliviate.train import checkpoint
from obliviate.train.checkpoint import META_FILE
from obliviate.train.job import CHECKPOINTS, Job
from obliviate.train.log import STEPS_FILE, mishaps, read_steps
from obliviate.train.loop import train
from obliviate.train.shared_reference import SharedReference
from training import job, quiet, weights

pytestmark = pytest.mark.usefixtures("process_group")
FILES = ("__0_0.distcp", ".metadata", META_FILE, STEPS_FILE)


def dies_in_step_4(metrics: Mapping[str, Any]) -> None:
    if metrics["step"] == 4:
        raise KeyboardInterrupt


def four_steps(tiny: Path, directory: Path) -> Job:
    return job(tiny, directory, checkpoint_every_steps=1, keep_checkpoints=2)


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What an undisturbed run ends with."""
    from obliviate.train.loop import single_process

    with single_process():
        return weights(train(four_steps(tiny, tmp_path_factory.mktemp("whole")), quiet))


@pytest.fixture
def run(tiny: Path, tmp_path: Path) -> Job:
    """Cut off with two checkpoints, after steps 2 and 3."""
    found = four_steps(tiny, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(found, dies_in_step_4)
    return found


def at(run: Job, step: int, name: str = "") -> Path:
    return run.directory / CHECKPOINTS / f"step_{step:06d}" / name


def ends_alike(run: Job, whole: dict[str, Tensor]) -> list[int]:
    """The steps that were made again."""
    again: list[int] = []
    found = weights(train(run, lambda metrics: again.append(metrics["step"])))
    assert all(torch.equal(whole[name], found[name]) for name in whole)
    assert [line["step"] for line in read_steps(run.directory)] == [1, 2, 3, 4]
    return again


def test_a_whole_one_is_gone_on_from(run: Job, whole: dict[str, Tensor]) -> None:
    assert ends_alike(run, whole) == [4]
    assert mishaps(run.directory) == []


def test_its_files_are_listed_as_they_are_written(run: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = checkpoint.unsealed(at(run, 3, META_FILE).read_bytes())["files"]
    assert sorted(listed) == sorted({*FILES} - {META_FILE})
    for name, (size, found) in listed.items():
        assert (size, found) == (at(run, 3, name).stat().st_size, digest(at(run, 3, name)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_one_is_passed_over(
    run: Job, whole: dict[str, Tensor], name: str, way: Callable[[Path], None]
) -> None:
    way(at(run, 3, name))
    assert ends_alike(run, whole) == [3, 4]
    (told,) = mishaps(run.directory)
    assert told.startswith(f"{at(run, 3)}: the checkpoint was damaged (")
    assert name in told
    assert told.endswith("): went on from step_000002")


def test_with_none_whole_the_run_begins_anew(run: Job, whole: dict[str, Tensor]) -> None:
    flip(at(run, 3, "__0_0.distcp"))
    delete(at(run, 2, META_FILE))
    assert ends_alike(run, whole) == [1, 2, 3, 4]
    assert [told.rpartition("): ")[2] for told in mishaps(run.directory)] == ["went on from step_000002", "began anew"]


def test_the_last_of_all_is_looked_at_too(run: Job, whole: dict[str, Tensor]) -> None:
    """Of a training whose model could not be written: it holds the model alone."""
    trained = train(run, quiet)
    checkpoint.save(run.directory / CHECKPOINTS, 4, (), trained, ())
    flip(at(run, 4, "__0_0.distcp"))
    assert ends_alike(run, whole) == [4]
    assert "step_000004: the checkpoint was damaged" in mishaps(run.directory)[0]


@pytest.mark.parametrize("way", WAYS[1:])
def test_lines_that_the_log_has_lost_come_back(run: Job, whole: dict[str, Tensor], way: Callable[[Path], None]) -> None:
    """Rules that drop rows, choose or stop read them: without, they would decide otherwise."""
    way(run.directory / STEPS_FILE)
    lost = 3 - len(read_steps(run.directory))
    assert ends_alike(run, whole) == [4]
    assert mishaps(run.directory) == [f"{lost} lines of the log were lost, and put back from the checkpoint"]


def test_one_that_was_made_before_files_were_listed_is_gone_on_from(run: Job, whole: dict[str, Tensor]) -> None:
    at(run, 3, META_FILE).write_text('{"step": 3, "weights": [1.0, 1.0]}')
    delete(at(run, 3, STEPS_FILE))
    assert ends_alike(run, whole) == [4]


def test_in_a_store(tiny: Path, tmp_path: Path, whole: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes to another node is looked at there."""
    (tmp_path / "bucket").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a"))
    run = four_steps(tiny, storage.local(f"file://{tmp_path}/bucket/run"))
    with pytest.raises(KeyboardInterrupt):
        train(run, dies_in_step_4)
    flip(tmp_path / "bucket" / "run" / CHECKPOINTS / "step_000003" / "__0_0.distcp")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    run = four_steps(tiny, storage.local(f"file://{tmp_path}/bucket/run"))
    assert ends_alike(run, whole) == [3, 4]
    assert (tmp_path / "bucket" / "run" / "mishaps.txt").read_text().endswith("went on from step_000002\n")


@pytest.mark.parametrize("way", WAYS[:3])
def test_shared_constants_are_computed_again(
    tiny: Path, tmp_path: Path, way: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    term = NPO()
    shared = SharedReference(tmp_path, job(tiny, tmp_path).model, term.needs)
    known = shared.load()
    known.stats["text"] = torch.arange(1000.0)  # type: ignore[index,assignment]
    shared.add(known, 0)
    assert shared.load().stats.keys() == {"text"}
    (file,) = tmp_path.glob("reference-*.pt")
    way(file)
    assert shared.load().stats == {}
    assert f"{file}: is damaged (" in caplog.text


def two_workers(rank: int, tiny: Path, folder: Path) -> None:
    """Cut off after step 3; then a file of the second worker's is damaged, which the second alone reads."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    held = {"whole": weights(train(four_steps(tiny, folder / "whole"), quiet))}
    run = four_steps(tiny, folder / "run")
    with suppress(KeyboardInterrupt):
        train(run, dies_in_step_4)
    dist.barrier()
    if rank == 0:
        flip(at(run, 3, "__1_0.distcp"))
    dist.barrier()
    held["again"] = weights(train(run, quiet))
    if rank == 0:
        torch.save(held, folder / "held.pt")
    dist.destroy_process_group()


def test_workers_that_read_their_shares_agree(tiny: Path, tmp_path: Path) -> None:
    mp.get_context("forkserver").set_forkserver_preload(["obliviate.train.loop", "torch.utils.tensorboard"])
    mp.start_processes(two_workers, (tiny, tmp_path), nprocs=2, start_method="forkserver")
    held = torch.load(tmp_path / "held.pt")
    assert all(torch.equal(held["whole"][name], held["again"][name]) for name in held["whole"])
    (told,) = mishaps(tmp_path / "run")
    assert "(__1_0.distcp is not as it was written): went on from step_000002" in told
