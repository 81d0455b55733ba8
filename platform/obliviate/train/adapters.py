"""Adapters of several requests, trained side by side on Ray: a task each, which needs no other worker."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from obliviate import storage
from obliviate.cluster import check_resources, cluster_gpus, cores_share, ensure_ray, worker_environment
from obliviate.data.schedule import Item
from obliviate.errors import UserError
from obliviate.fusion import GRAMS
from obliviate.methods import Pass
from obliviate.models import encoder_of
from obliviate.runs import write_whole
from obliviate.schema import ClusterSpec
from obliviate.train import heap
from obliviate.train.batch import Texts
from obliviate.train.gram import grams, linear_layers
from obliviate.train.job import Job
from obliviate.train.loop import single_process
from obliviate.train.model import PREFIX
from obliviate.train.produce import train_and_write
from obliviate.train.worker import Outcome

FACTOR = ".lora_A."  # the layer that reads what the adapted layer reads


@dataclass(frozen=True)
class AdapterJob:
    job: Job
    folder: Path  # for the adapter; its Gram matrices go beside it

    @property
    def places(self) -> tuple[str, str]:
        """What the job's directory and `folder` are called on every node."""
        return storage.name(self.job.directory), storage.name(self.folder)

    def at(self, places: tuple[str, str]) -> "AdapterJob":
        """The same on the node that this runs on."""
        directory, folder = map(storage.local, places)
        return AdapterJob(replace(self.job, directory=directory), folder)


def launch_adapters(
    requests: Mapping[str, AdapterJob], cluster: ClusterSpec, concurrency: int, on_done: Callable[[str], None]
) -> None:
    """Train every request's adapter, `concurrency` of them at a time; `on_done` gets the name of each that is written.

    One whose process dies is started again from its last checkpoint, at most `cluster.max_failures` times. Raises
    UserError, naming each request that failed and why, when the others are done.
    """
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError

    deaths = (WorkerCrashedError, NodeDiedError, OutOfMemoryError)
    ensure_ray(cluster.address)
    gpus = cluster.gpus_per_worker if cluster.gpus_per_worker is not None else min(1.0, cluster_gpus())
    cpus = cluster.cpus_per_worker or cores_share(concurrency, gpus)
    check_resources("concurrency", concurrency, cpus, gpus)
    task = ray.remote(train_adapter).options(
        num_cpus=cpus,
        num_gpus=gpus,
        max_retries=cluster.max_failures,
        runtime_env={"env_vars": worker_environment(**heap.ENVIRONMENT)},
    )
    waiting = list(requests)
    begun: dict[Any, str] = {}  # task -> request
    failures: list[str] = []
    while waiting or begun:
        while waiting and len(begun) < concurrency:
            name = waiting.pop(0)
            begun[task.remote(requests[name], requests[name].places, cpus)] = name
        (ready, *_), _ = ray.wait(list(begun))
        name = begun.pop(ready)
        try:
            outcome: Outcome = ray.get(ready)
        except deaths as error:
            outcome = Outcome(f"its process died {cluster.max_failures + 1} times: {error}")
        except RayError as error:  # what the task raised, or why it never began
            last = str(error).strip().rpartition("\n")[2]
            outcome = Outcome(f"its training failed with: {last}")
        if outcome.error is None:
            on_done(name)
        else:
            failures.append(f"requests.{name}: {outcome.error}")
    if failures:
        raise UserError("; ".join(failures))


def train_adapter(request: AdapterJob, places: tuple[str, str], threads: float) -> Outcome:
    """In this process: the adapter, and the Gram matrices of the inputs that its forget texts give each layer.

    `places` are the driver's `request`'s.
    """
    request = request.at(places)
    torch.set_num_threads(max(1, int(threads)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    job = request.job
    try:
        with single_process():
            model = train_and_write(job, request.folder, device=device)
            layers = {name: layer for name, layer in linear_layers(model).items() if FACTOR in name}
            found = grams(
                model,
                layers,
                Texts(encoder_of(job.model), job.forget, job.retain, job.refusals),
                Pass.FORGET,
                [Item(index) for index in range(len(job.forget))],
                size=job.optim.micro_batch_size,
                max_length=job.model.max_length,
                device=device,
            )
        _write(request.folder.parent / GRAMS, found)
    except UserError as error:
        return Outcome(error=str(error))
    return Outcome()


def _write(path: Path, found: Mapping[str, torch.Tensor]) -> None:
    """Under the names that the adapter's file gives the factors."""
    from safetensors.torch import save_file

    named = {f"{name.removeprefix(PREFIX).removesuffix('.default')}.weight": gram.cpu() for name, gram in found.items()}
    write_whole(path, lambda temporary: save_file(named, temporary))
