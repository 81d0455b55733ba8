"""Training on Ray: one call that starts the workers, shows progress, survives deaths, and returns when all is done."""

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic

from obliviate import storage
from obliviate.cluster import check_resources, cluster_gpus, cores_share, ensure_ray, worker_environment
from obliviate.data.packed import packed
from obliviate.errors import DivergedError, UserError
from obliviate.local_ray import is_local, logs
from obliviate.schema import ClusterSpec
from obliviate.train import heap
from obliviate.train.job import Job, Reporter
from obliviate.train.log import PUBLISH_EVERY_S, STEPS_FILE, read_steps
from obliviate.train.worker import Outcome, work

POLL_S = 0.5


def launch(job: Job, cluster: ClusterSpec, folder: Path, on_step: Reporter) -> None:
    """Train `job` on Ray Train workers and write the model to `folder`; `on_step` gets each logged step.

    A worker that dies is started again from the last checkpoint, at most `cluster.max_failures` times. The same job in
    the same directory continues where it stopped. Raises UserError for what the user can mend.
    """
    named = (job, storage.name(job.directory), storage.name(folder))
    with _Follower([job.directory], on_step):
        _on_workers([named], job.directory, cluster)


def launch_watched(jobs: Sequence[Job], directory: Path, cluster: ClusterSpec, on_step: Reporter) -> None:
    """Train jobs that are watched, one after the other on the same workers; otherwise as `launch`. `directory` is that
    of the run which theirs are in; `on_step` is told of all steps of all jobs."""
    with _Follower([job.directory for job in jobs], on_step):
        _on_workers([(job, storage.name(job.directory), None) for job in jobs], directory, cluster)


def _on_workers(jobs: Sequence[tuple[Job, str, str | None]], directory: Path, cluster: ClusterSpec) -> None:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from obliviate.train.rendezvous import LocalTorchConfig

    # By itself Ray looks every two seconds whether workers have ended.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(POLL_S))
    ensure_ray(cluster.address)
    gpus = cluster.gpus_per_worker if cluster.gpus_per_worker is not None else min(1.0, cluster_gpus())
    cpus = cluster.cpus_per_worker or cores_share(cluster.workers, gpus)
    check_resources("cluster.workers", cluster.workers, cpus, gpus)
    resources = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
    storage_path, filesystem = storage.for_ray(directory / "ray")

    class Interruptible(TorchTrainer):  # type: ignore[misc]  # Ray has no types
        def _register_sigint_handler(self, controller: object) -> None:
            """Ctrl-C stays what it is everywhere: Ray's handler exits with 0 or 1, also in stages after this one."""

    trainer = Interruptible(
        work,
        train_loop_config={"jobs": [(packed_job(job), *named) for job, *named in jobs], "threads": cpus},
        torch_config=(LocalTorchConfig if is_local() else TorchConfig)(backend="nccl" if gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.workers, use_gpu=gpus > 0, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=directory.name,
            storage_path=storage_path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
            logging_config=ray.train.LoggingConfig("ERROR"),
            worker_runtime_env={"env_vars": worker_environment(**heap.ENVIRONMENT)},
        ),
    )
    try:
        outcome: Outcome = trainer.fit().return_value
    except ray.train.TrainingFailedError as error:
        causes = getattr(error, "worker_failures", {}) or {0: error}
        last = str(next(iter(causes.values()))).strip().rpartition("\n")[2]
        raise UserError(
            f"{directory}: training failed {cluster.max_failures + 1} times, the last time with: {last}; "
            f"the workers' logs are in {logs()}/train"
        ) from error
    if outcome.error is not None:
        raise (DivergedError if outcome.diverged else UserError)(outcome.error)


def packed_job(job: Job) -> Job:
    """To be sent: its rows go to each node once, and no worker makes objects of those that it does not train on."""
    return replace(job, forget=packed(job.forget), retain=packed(job.retain), world=packed(job.world))


class _Follower:
    """Hands each new line of the step logs to `on_step`, from a thread, while the workers train.

    Of a run in an object store the log may be on another node, which publishes it now and then.
    """

    def __init__(self, directories: Sequence[Path], on_step: Reporter) -> None:
        self._directories, self._on_step = directories, on_step
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        seen, fetched_s = dict.fromkeys(self._directories, 0), monotonic()
        while True:
            stopping = self._stop.wait(POLL_S)
            if stopping or monotonic() - fetched_s >= PUBLISH_EVERY_S:
                for directory in self._directories:
                    storage.fetch(directory / STEPS_FILE)
                fetched_s = monotonic()
            for directory in self._directories:
                for line in read_steps(directory):
                    if line["step"] > seen[directory]:
                        self._on_step(line)
                        seen[directory] = line["step"]
            if stopping:
                return
