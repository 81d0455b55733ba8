"""What a Ray Train worker runs: the loop on this worker's device, then the export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from obliviate.errors import UserError
from obliviate.train.export import export
from obliviate.train.loop import Job, train


@dataclass(frozen=True)
class Outcome:
    """A user's mistake travels as a value: raised, Ray would take it for a crash and try again."""

    error: str | None = None


def work(config: dict[str, Any]) -> Outcome:
    """`config`: the job, the folder for the trained model, and the CPU threads of this worker."""
    import ray.train

    job: Job = config["job"]
    folder: Path = config["folder"]
    torch.set_num_threads(max(1, int(config["threads"])))
    context = ray.train.get_context()
    device = torch.device("cuda", context.get_local_rank()) if torch.cuda.is_available() else torch.device("cpu")

    try:
        export(train(job, device=device), job.model, folder)
    except UserError as error:
        return Outcome(error=str(error))
    return Outcome()
