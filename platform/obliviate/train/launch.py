"""Training on Ray: one call that starts the workers, shows progress, survives deaths, and returns when all is done."""

import os
import threading
from pathlib import Path
from time import monotonic

from obliviate import storage
from obliviate.cluster import check_resources, cluster_gpus, cores_share, ensure_ray, worker_environment
from obliviate.errors import DivergedError, UserError
from obliviate.local_ray import is_local
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
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from obliviate.train.rendezvous import LocalTorchConfig

    ensure_ray(cluster.address)
    gpus = cluster.gpus_per_worker if cluster.gpus_per_worker is not None else min(1.0, cluster_gpus())
    cpus = cluster.cpus_per_worker or cores_share(cluster.workers, gpus)
    check_resources("cluster.workers", cluster.workers, cpus, gpus)
    resources = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
    storage_path, filesystem = storage.for_ray(job.directory / "ray")
    names = {"directory": storage.name(job.directory), "folder": storage.name(folder)}
    trainer = TorchTrainer(
        work,
        train_loop_config={"job": job, "threads": cpus, **names},
        torch_config=(LocalTorchConfig if is_local() else TorchConfig)(backend="nccl" if gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.workers, use_gpu=gpus > 0, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=job.directory.name,
            storage_path=storage_path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
            logging_config=ray.train.LoggingConfig("ERROR"),
            worker_runtime_env={"env_vars": worker_environment(**heap.ENVIRONMENT)},
        ),
    )
    with _Follower(job.directory, on_step):
        try:
            outcome: Outcome = trainer.fit().return_value
        except ray.train.TrainingFailedError as error:
            causes = getattr(error, "worker_failures", {}) or {0: error}
            last = str(next(iter(causes.values()))).strip().rpartition("\n")[2]
            raise UserError(
                f"{job.directory}: training failed {cluster.max_failures + 1} times, the last time with: {last}; "
                f"the workers' logs are in {os.environ.get('RAY_TMPDIR', '/tmp/ray')}/session_latest/logs/train"
            ) from error
    if outcome.error is not None:
        raise (DivergedError if outcome.diverged else UserError)(outcome.error)


class _Follower:
    """Hands each new line of the run's step log to `on_step`, from a thread, while the workers train.

    Of a run in an object store the log may be on another node, which publishes it now and then.
    """

    def __init__(self, directory: Path, on_step: Reporter) -> None:
        self._directory, self._on_step = directory, on_step
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        seen, fetched_s = 0, monotonic()
        while True:
            stopping = self._stop.wait(POLL_S)
            if stopping or monotonic() - fetched_s >= PUBLISH_EVERY_S:
                storage.fetch(self._directory / STEPS_FILE)
                fetched_s = monotonic()
            for line in read_steps(self._directory):
                if line["step"] > seen:
                    self._on_step(line)
                    seen = line["step"]
            if stopping:
                return
