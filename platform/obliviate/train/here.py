"""Training in this process, for one that has the device to itself already: workers of its own would take seconds."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from obliviate.train.heap import give_back
from obliviate.train.job import Job
from obliviate.train.loop import single_process
from obliviate.train.produce import train_and_watch


@contextmanager
def alone() -> Iterator[torch.device]:
    """The device, in a process group of one. Afterwards nothing of what training held is left on it: FSDP2's models are
    cycles, and engines and other trainings need their room."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with single_process():
            yield device
    finally:
        gc.collect()
        give_back()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def watch(jobs: Sequence[Job]) -> None:
    """Train jobs that are watched, one after the other."""
    with alone() as device:
        for job in jobs:
            train_and_watch(job, device=device)
