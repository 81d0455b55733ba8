"""What a Ray Train worker runs: the loop on this worker's device, and the export."""

from dataclasses import dataclass, replace
from typing import Any

from obliviate import storage
from obliviate.errors import DivergedError, UserError
from obliviate.train.job import Job


@dataclass(frozen=True)
class Outcome:
    """A user's mistake travels as a value: raised, Ray would take it for a crash and try again."""

    error: str | None = None
    diverged: bool = False  # whether it is a DivergedError


def work(config: dict[str, Any]) -> Outcome:
    """`config`: the job, the CPU threads of this worker, and what every node calls the job's directory and the folder
    for the trained model.
    """
    # Here, because Ray's controller, which only passes this function on, would wait for them first.
    import ray.train
    import torch

    from obliviate.train.produce import train_and_write

    job: Job = replace(config["job"], directory=storage.local(config["directory"]))
    folder = storage.local(config["folder"])
    torch.set_num_threads(max(1, int(config["threads"])))
    context = ray.train.get_context()
    device = torch.device("cuda", context.get_local_rank()) if torch.cuda.is_available() else torch.device("cpu")

    try:
        train_and_write(job, folder, device=device)
    except UserError as error:
        return Outcome(error=str(error), diverged=isinstance(error, DivergedError))
    return Outcome()
