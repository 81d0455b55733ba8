"""Checkpoints of a training run: sharded, with optimiser state, loadable on another number of workers, never half.

A checkpoint is written to a hidden folder and renamed when all workers are done: a folder named `step_000012` is whole.
In an object store, which can't rename, each worker uploads what it wrote, and the folder is marked whole when all have.
What its files come to is in it: one that a disk has damaged since is passed over.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer

from obliviate import storage
from obliviate.digests import Hashing, Listed, damage, digest, sealed, sizes, unsealed
from obliviate.errors import DivergedError, UserError
from obliviate.runs import write_whole
from obliviate.train.job import CHECKPOINTS
from obliviate.train.log import STEPS_FILE, mishap, read_steps
from obliviate.train.together import everyones, together

META_FILE = "meta.json"
# The frozen base under adapters never changes: it is read from its source, not from checkpoints.
TRAINED_ONLY = StateDictOptions(ignore_frozen_params=True, strict=False)


AT_MOST_EVERY_S = 120.0  # what a killed run may have to do again
SHARE_OF_TIME = 0.05  # that saving may take of a run


class Cadence:
    """When the next checkpoint is due: every so many steps, or (None) by the clock.

    By the clock a model that saves slowly is saved seldom: small runs end before their first checkpoint would have
    cost more than the steps that it guards.
    """

    def __init__(self, every_steps: int | None) -> None:
        self._every_steps = every_steps
        self._wait_s = AT_MOST_EVERY_S
        self._saved_s = time.monotonic()

    def __call__(self, step: int, *, last: bool = False) -> bool:
        """All workers call it together, after each step: the first one's clock decides for all.

        After the last step, before the model is written, the clock alone: a process that dies of that shall not have
        more to do again than one that dies of a step.
        """
        if self._every_steps is not None:
            return step % self._every_steps == 0 and not last
        due = [time.monotonic() - self._saved_s >= self._wait_s]
        dist.broadcast_object_list(due)
        return due[0]

    @contextmanager
    def saving(self) -> Iterator[None]:
        began_s = time.monotonic()
        yield
        self._saved_s = time.monotonic()
        self._wait_s = max(AT_MOST_EVERY_S, (self._saved_s - began_s) / SHARE_OF_TIME)


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    return max(_all(folder), default=None)


def latest_sound(folder: Path) -> Path | None:
    """The newest one whose files are as they were written, or None; damaged ones that are newer go, which is told. Each
    worker reads its share of the files. All workers call it together.

    Raises UserError, on all of them, where one cannot be fetched.
    """
    paths = [_all(folder)]  # as the first worker sees them, whose look at a store is as good as any
    dist.broadcast_object_list(paths)
    for path in reversed(paths[0]):
        if cause := together(lambda path=path: storage.fetch(path)):  # type: ignore[misc]
            raise UserError(f"{path}: the checkpoint cannot be fetched ({cause}); run the same command again")
        found = together(lambda path=path: _require_sound(path))  # type: ignore[misc]
        if not found:
            return path
        before = [each for each in paths[0] if each < path]
        if dist.get_rank() == 0:
            then = f"went on from {before[-1].name}" if before else "began anew"
            mishap(folder.parent, f"{storage.name(path)}: the checkpoint was damaged ({found}): {then}")
        discard(folder, steps_of(path))
    return None


def _require_sound(path: Path) -> None:
    """This worker's share of the files. Raises OSError where one is not as it was written."""
    try:
        listed: Listed = unsealed((path / META_FILE).read_bytes()).get("files", {})  # once they were not listed
    except ValueError as error:
        raise OSError(f"{META_FILE} {error}") from error
    mine = dict(list(listed.items())[dist.get_rank() :: dist.get_world_size()])
    for name, what in damage(mine, sizes(path), lambda name: digest(path / name)).items():
        raise OSError(f"{name} {what}")


def prune(folder: Path, keep: int) -> None:
    """Only the newest `keep` stay. Called after a step with finite losses: until then the newest may be a bad one."""
    if dist.get_rank() == 0:
        for old in _all(folder)[:-keep]:
            storage.remove(old)


def discard(folder: Path, step: int) -> None:
    """Remove the checkpoint taken after that many steps, if there is one. All workers call it together."""
    if dist.get_rank() == 0:
        storage.remove(_path(folder, step))
    dist.barrier()


def stop(folder: Path, step: int, reason: str) -> NoReturn:
    """Raise DivergedError for what came of the step after that many. All workers come here together.

    A checkpoint of the weights that it began with is no good one.
    """
    discard(folder, step)
    good = latest(folder)
    kept = "there is no good checkpoint before it" if good is None else f"the last good checkpoint is {good}"
    raise DivergedError(f"step {step + 1}: {reason}; {kept}. Lower optim.learning_rate or the term's weight")


def save(
    folder: Path,
    step: int,
    weights: Sequence[float],
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    chosen: Mapping[str, Tensor] | None = None,
) -> None:
    """All workers call it together; `weights` are the terms', which every worker knows alike. Without optimizers the
    model alone is kept, as after the last step. `chosen`: parameters of an earlier step, which the run may end with.

    Raises UserError, on all of them, where the disk refuses: older ones stay.
    """
    path = _path(folder, step)
    temporary = folder / f".{path.name}.tmp"
    rank = dist.get_rank()
    mine: dict[str, tuple[int, str]] = {}  # files of this worker, and what they come to

    def begin() -> None:
        if rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            storage.begin_folder(path)

    def write() -> None:
        temporary.mkdir(parents=True, exist_ok=True)  # workers on other nodes may have a disk of their own
        writer = dcp.FileSystemWriter(temporary, single_file_per_rank=True)
        writer.fs = hashing = _HashingFiles()
        dcp.save(_state(model, optimizers, chosen), storage_writer=writer)
        for file in temporary.glob(f"__{rank}_*"):
            mine[file.name] = (file.stat().st_size, hashing.streams[file.name].hexdigest)
        storage.upload_into(path, [temporary / name for name in mine], temporary)

    def describe() -> None:
        listed = {name: found for worker in everyones({rank: mine}).values() for name, found in worker.items()}
        if rank == 0:
            storage.upload_into(path, _described(temporary, step, weights, listed), temporary)

    def commit() -> None:
        if storage.url_of(path) is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        elif rank == 0:
            temporary.rename(path)
        if rank == 0:
            storage.finish_folder(path)

    if cause := together(begin) or together(write) or together(describe) or together(commit):
        shutil.rmtree(temporary, ignore_errors=True)
        before = latest(folder)
        raise UserError(
            f"{path}: the checkpoint could not be written ({cause}); free space and run the same command again: "
            f"it continues from {before.name if before else 'the start'}"
        )


def _described(temporary: Path, step: int, weights: Sequence[float], listed: Listed) -> list[Path]:
    """The first worker's files that say what is in the others, and in the log so far, which it would be hard to do
    without: rules that drop rows or stop read it."""
    files = [temporary / ".metadata"]
    if (log := temporary.parents[1] / STEPS_FILE).exists():
        files.append(Path(shutil.copyfile(log, temporary / STEPS_FILE)))
    found = {**listed, **{file.name: (file.stat().st_size, digest(file)) for file in files}}
    meta = sealed({"step": step, "weights": list(weights), "files": found})
    (temporary / META_FILE).write_text(json.dumps(meta), encoding="utf-8")
    return [*files, temporary / META_FILE]


def _all(folder: Path) -> list[Path]:
    """Every whole checkpoint, the oldest first."""
    return [path for path in storage.folders(folder) if path.name.startswith("step_")]


def _path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:06d}"


def steps_of(path: Path) -> int:
    """After how many it was taken."""
    return int(path.name.removeprefix("step_"))


class _HashingFiles(FileSystem):
    """Finds what each file comes to while it is written."""

    def __init__(self) -> None:
        self.streams: dict[str, Hashing] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        with super().create_stream(path, mode) as stream:
            if mode == "wb":
                self.streams[Path(path).name] = stream = Hashing(stream)
            yield stream


def load(
    path: Path, model: nn.Module, optimizers: Sequence[Optimizer], chosen: Mapping[str, Tensor] | None = None
) -> tuple[int, list[float]]:
    """Put the checkpoint's state into model and optimisers (after the last step, into the model alone), and into
    `chosen`; the step it was taken after and the terms' weights.

    All workers call it together. Raises UserError, on all of them, where it cannot be fetched.
    """
    if cause := together(lambda: storage.fetch(path)):
        raise UserError(f"{path}: the checkpoint cannot be fetched ({cause}); run the same command again")
    state = _state(model, optimizers, chosen)
    dcp.load(state, storage_reader=dcp.FileSystemReader(path))
    if not optimizers:
        set_model_state_dict(model, state["model"], options=TRAINED_ONLY)
    for number, optimizer in enumerate(optimizers):
        set_state_dict(
            model,
            optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state[_name(number)],
            options=TRAINED_ONLY,
        )
    meta = unsealed((path / META_FILE).read_bytes())
    return meta["step"], meta["weights"]


def logged(directory: Path, steps: int) -> list[dict[str, Any]]:
    """What the run in `directory` has logged of its first `steps` steps, of which it goes on from the checkpoint: that
    has a copy, from which lines that are lost come back. All workers call it together.

    Raises UserError, on all of them, where the log cannot be fetched or written.
    """
    copy = _path(directory / CHECKPOINTS, steps)

    def restore() -> None:
        storage.fetch(directory / STEPS_FILE)
        if (copy / STEPS_FILE).exists() and dist.get_rank() == 0:
            lost = len(read_steps(copy)) - sum(line["step"] <= steps for line in read_steps(directory))
            if lost > 0:
                mishap(directory, f"{lost} lines of the log were lost, and put back from the checkpoint")
            write_whole(directory / STEPS_FILE, lambda path: shutil.copyfile(copy / STEPS_FILE, path))

    if cause := together(restore):
        raise UserError(f"{directory}: the log cannot be fetched ({cause}); run the same command again")
    source = copy if (copy / STEPS_FILE).exists() else directory
    return [line for line in read_steps(source) if line["step"] <= steps]


def _state(model: nn.Module, optimizers: Sequence[Optimizer], chosen: Mapping[str, Tensor] | None) -> dict[str, Any]:
    state: dict[str, Any] = {"model": get_model_state_dict(model, options=TRAINED_ONLY)} if not optimizers else {}
    for number, optimizer in enumerate(optimizers):
        state["model"], state[_name(number)] = get_state_dict(model, optimizer, options=TRAINED_ONLY)
    if chosen is not None:
        state["chosen"] = dict(chosen)
    return state


def _name(optimizer: int) -> str:
    return f"optimizer_{optimizer}"
