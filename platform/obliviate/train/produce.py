"""From a job to a model folder: the training, what its weights' dtype leaves of it, and the export."""

import gc
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from obliviate import storage
from obliviate.errors import DivergedError, UserError
from obliviate.runs import EXPORT_FILE, write_json
from obliviate.source import export_dtype
from obliviate.train import checkpoint, export
from obliviate.train.batch import texts_of
from obliviate.train.heap import give_back
from obliviate.train.job import CHECKPOINTS, Job, Reporter
from obliviate.train.loop import train
from obliviate.train.model import ScoredModel
from obliviate.train.rounding import measured
from obliviate.train.signal import Signal, Slices, measure
from obliviate.train.verdict import still_said

SAMPLE = 32  # forget rows whose probability stands for all


def train_and_write(
    job: Job, folder: Path, report: Reporter | None = None, *, device: torch.device | None = None
) -> ScoredModel:
    """Train to the end, and write the model to `folder`; errors as of `train`.

    Where it cannot be written, what was trained is kept in a checkpoint: the same call then writes without a step.
    """
    device = device or torch.device("cpu")
    model = train(job, report, device=device)
    facts = still_said(model, job, device)
    try:
        rounding = None
        if job.model.lora is None:
            rounding = measured(model, job.model, export_dtype(job.model), partial(_probability, model, job, device))
        merging = export.export(model, job.model, folder)
    except UserError:
        checkpoints = job.directory / CHECKPOINTS
        with suppress(UserError):  # the disk is full for it too: then the last of the steps are made again
            checkpoint.save(checkpoints, job.schedule.steps, (), model, ())
            checkpoint.prune(checkpoints, job.optim.keep_checkpoints)
        raise
    if dist.get_rank() == 0:
        found = merging if rounding is None else rounding
        asked = job.model.export_dtype
        warnings = [found.warning(asked)] if found is not None and found.undone else []
        record = None if found is None else asdict(found)
        write_json(job.directory / EXPORT_FILE, {"rounding": record, "warnings": warnings, "facts": facts})
    return model


def train_and_watch(job: Job, *, device: torch.device) -> None:
    """Train a job that is watched, unless all has been seen, and leave nothing else behind."""
    assert job.watch is not None
    seen = [job.watch.done]  # the first worker's word: the others may be on other disks
    dist.broadcast_object_list(seen)
    if not seen[0]:
        train(job, device=device)
        gc.collect()  # FSDP2's models are cycles, and the next one needs their room
        give_back()
    if dist.get_rank() == 0:
        storage.remove(job.directory / CHECKPOINTS)


def _probability(model: ScoredModel, job: Job, device: torch.device) -> float | None:
    """Mean of the forget answers', over some rows spread evenly; None where there are none, or it is no number."""
    slices = Slices(Signal(1, SAMPLE).slice(len(job.forget)), ())
    size = job.optim.micro_batch_size
    try:
        found = measure(model, texts_of(job), slices, size=size, max_length=job.model.max_length, device=device)
    except DivergedError:
        return None
    return found["forget"]
