"""Checkpoints of a training run: sharded, with optimiser state, loadable on another number of workers, never half.

A checkpoint is written to a hidden folder and renamed when all workers are done: a folder named `step_000012` is whole.
In an object store, which can't rename, each worker uploads what it wrote, and the folder is marked whole when all have.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer

from obliviate import storage
from obliviate.errors import DivergedError, UserError
from obliviate.train.log import STEPS_FILE, read_steps
from obliviate.train.together import together

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

    def begin() -> None:
        if rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            storage.begin_folder(path)

    def write() -> None:
        temporary.mkdir(parents=True, exist_ok=True)  # workers on other nodes may have a disk of their own
        state = _state(model, optimizers, chosen)
        dcp.save(state, storage_writer=dcp.FileSystemWriter(temporary, single_file_per_rank=True))
        mine = list(temporary.glob(f"__{rank}_*"))
        if rank == 0:
            (temporary / META_FILE).write_text(json.dumps({"step": step, "weights": list(weights)}), encoding="utf-8")
            mine += [temporary / META_FILE, temporary / ".metadata"]
        storage.upload_into(path, mine, temporary)

    def commit() -> None:
        if storage.url_of(path) is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        elif rank == 0:
            temporary.rename(path)
        if rank == 0:
            storage.finish_folder(path)

    if cause := together(begin) or together(write) or together(commit):
        shutil.rmtree(temporary, ignore_errors=True)
        before = latest(folder)
        raise UserError(
            f"{path}: the checkpoint could not be written ({cause}); free space and run the same command again: "
            f"it continues from {before.name if before else 'the start'}"
        )


def _all(folder: Path) -> list[Path]:
    """Every whole checkpoint, the oldest first."""
    return [path for path in storage.folders(folder) if path.name.startswith("step_")]


def _path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:06d}"


def steps_of(path: Path) -> int:
    """After how many it was taken."""
    return int(path.name.removeprefix("step_"))


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
    meta = json.loads((path / META_FILE).read_text(encoding="utf-8"))
    return meta["step"], meta["weights"]


def logged(directory: Path, steps: int) -> list[dict[str, Any]]:
    """What the run in `directory` has logged of its first `steps` steps. All workers call it together.

    Raises UserError, on all of them, where the log cannot be fetched.
    """
    if cause := together(lambda: storage.fetch(directory / STEPS_FILE)):
        raise UserError(f"{directory}: the log cannot be fetched ({cause}); run the same command again")
    return [line for line in read_steps(directory) if line["step"] <= steps]


def _state(model: nn.Module, optimizers: Sequence[Optimizer], chosen: Mapping[str, Tensor] | None) -> dict[str, Any]:
    state: dict[str, Any] = {"model": get_model_state_dict(model, options=TRAINED_ONLY)} if not optimizers else {}
    for number, optimizer in enumerate(optimizers):
        state["model"], state[_name(number)] = get_state_dict(model, optimizer, options=TRAINED_ONLY)
    if chosen is not None:
        state["chosen"] = dict(chosen)
    return state


def _name(optimizer: int) -> str:
    return f"optimizer_{optimizer}"
