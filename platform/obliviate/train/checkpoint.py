"""Checkpoints of a training run: sharded, with optimiser state, loadable on another number of workers, never half.

A checkpoint is written to a hidden folder and renamed when all workers are done: a folder named `step_000012` is whole.
"""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim import Optimizer

from obliviate.errors import UserError

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

    def __call__(self, step: int) -> bool:
        """All workers call it together, after each step: the first one's clock decides for all."""
        if self._every_steps is not None:
            return step % self._every_steps == 0
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
    return max(folder.glob("step_*"), default=None) if folder.is_dir() else None


def prune(folder: Path, keep: int) -> None:
    """Only the newest `keep` stay. Called after a step with finite losses: until then the newest may be a bad one."""
    if dist.get_rank() == 0:
        for old in sorted(folder.glob("step_*"))[:-keep]:
            shutil.rmtree(old)


def discard(folder: Path, step: int) -> None:
    """Remove the checkpoint taken after that many steps, if there is one. All workers call it together."""
    if dist.get_rank() == 0:
        shutil.rmtree(_path(folder, step), ignore_errors=True)
    dist.barrier()


def save(folder: Path, step: int, weights: Sequence[float], model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """All workers call it together; `weights` are the terms', which every worker knows alike.

    Raises UserError, on all of them, where the disk refuses: older ones stay.
    """
    path = _path(folder, step)
    temporary = folder / f".{path.name}.tmp"
    first = dist.get_rank() == 0
    if first:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    dist.barrier()
    failure = ""
    try:
        dcp.save(_state(model, optimizers), storage_writer=dcp.FileSystemWriter(temporary, single_file_per_rank=True))
        if first:
            (temporary / META_FILE).write_text(json.dumps({"step": step, "weights": list(weights)}), encoding="utf-8")
            temporary.rename(path)
    except (OSError, dcp.api.CheckpointException) as error:
        failure = " ".join(str(error).split())[-300:] or type(error).__name__
    failures: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(failures, failure)
    if cause := next(filter(None, failures), ""):
        shutil.rmtree(temporary, ignore_errors=True)
        before = latest(folder)
        raise UserError(
            f"{path}: the checkpoint could not be written ({cause}); free space and run the same command again: "
            f"it continues from {before.name if before else 'the start'}"
        )


def _path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:06d}"


def load(path: Path, model: nn.Module, optimizers: Sequence[Optimizer]) -> tuple[int, list[float]]:
    """Put the checkpoint's state into model and optimisers; the step it was taken after and the terms' weights."""
    state = _state(model, optimizers)
    dcp.load(state, storage_reader=dcp.FileSystemReader(path))
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


def _state(model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for number, optimizer in enumerate(optimizers):
        state["model"], state[_name(number)] = get_state_dict(model, optimizer, options=TRAINED_ONLY)
    return state


def _name(optimizer: int) -> str:
    return f"optimizer_{optimizer}"
