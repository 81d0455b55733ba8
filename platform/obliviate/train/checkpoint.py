"""Checkpoints of a training run: sharded, with optimiser state, loadable on another number of workers, never half.

A checkpoint is written to a hidden folder and renamed when all workers are done: a folder named `step_000012` is whole.
"""

import json
import shutil
from collections.abc import Sequence
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


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    return max(folder.glob("step_*"), default=None) if folder.is_dir() else None


def save(
    folder: Path, step: int, weights: Sequence[float], model: nn.Module, optimizer: Optimizer, *, keep: int
) -> None:
    """All workers call it together; `weights` are the terms', which every worker knows alike.

    Raises UserError, on all of them, where the disk refuses: older ones stay.
    """
    path = folder / f"step_{step:06d}"
    temporary = folder / f".{path.name}.tmp"
    first = dist.get_rank() == 0
    if first:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    dist.barrier()
    failure = ""
    try:
        dcp.save(_state(model, optimizer), storage_writer=dcp.FileSystemWriter(temporary, single_file_per_rank=True))
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
    if first:
        for old in sorted(folder.glob("step_*"))[:-keep]:
            shutil.rmtree(old)


def load(path: Path, model: nn.Module, optimizer: Optimizer) -> tuple[int, list[float]]:
    """Put the checkpoint's state into model and optimiser; the step it was taken after and the terms' weights."""
    state = _state(model, optimizer)
    dcp.load(state, storage_reader=dcp.FileSystemReader(path))
    set_state_dict(
        model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=TRAINED_ONLY,
    )
    meta = json.loads((path / META_FILE).read_text(encoding="utf-8"))
    return meta["step"], meta["weights"]


def _state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    model_state, optimizer_state = get_state_dict(model, optimizer, options=TRAINED_ONLY)
    return {"model": model_state, "optimizer": optimizer_state}
