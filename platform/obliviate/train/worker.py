"""What a Ray Train worker runs: the loop on this worker's device, and the export."""

from dataclasses import dataclass, replace
from typing import Any

from obliviate import storage
from obliviate.errors import DivergedError, UserError


@dataclass(frozen=True)
class Outcome:
    """A user's mistake travels as a value: raised, Ray would take it for a crash and try again."""

    error: str | None = None
    diverged: bool = False  # whether it is a DivergedError


def work(config: dict[str, Any]) -> Outcome:
    """`config`: jobs, the CPU threads of this worker, and what every node calls each job's directory and the folder for
    its trained model (None: of a job that is watched).
    """
    # Here, because Ray's controller, which only passes this function on, would wait for them first.
    import ray.train
    import torch

    from obliviate.train.produce import train_and_watch, train_and_write

    torch.set_num_threads(max(1, int(config["threads"])))
    context = ray.train.get_context()
    device = torch.device("cuda", context.get_local_rank()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        for job, directory, folder in config["jobs"]:
            here = replace(job, directory=storage.local(directory))
            if folder is None:
                train_and_watch(here, device=device)
            else:
                train_and_write(here, storage.local(folder), device=device)
    except UserError as error:
        return Outcome(error=str(error), diverged=isinstance(error, DivergedError))
    return Outcome()
