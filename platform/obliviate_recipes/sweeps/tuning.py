"""Trials on Ray Tune: what each gets of the cluster, and one run of Tune over all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Any, TypeVar

from obliviate import storage
from obliviate.cluster import check_resources, cluster_gpus, cores_share
from obliviate_recipes.sweeps.spec import Trials

T = TypeVar("T", bound=Trials)

TUNE = "tune"  # folder of Ray Tune's own files in that of the sweep
DRIVER_BYTES = 2**29  # what a trial's process needs that only waits for workers of its own
# Tune would log each result three times over to files that nobody reads, and its check knows nothing of a trial that
# ends without a result. The last two are read by the trials' processes: paths in configs are relative to the folder
# that the command runs in, and a trial that is stopped between two steps ends at once.
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


@dataclass(frozen=True)
class Places:
    """What each training worker of a trial gets, and how many trials run at a time."""

    cpus: float
    gpus: float
    workers: int
    concurrency: int

    def applied_to(self, config: T) -> T:
        """The config with these in the place of nulls: a trial looks at no cluster to learn what it may have."""
        cluster = config.cluster.model_copy(update={"cpus_per_worker": self.cpus, "gpus_per_worker": self.gpus})
        engine = config.evaluation.engine
        share = self.workers / engine.replicas
        engine = engine.model_copy(
            update={
                "cpus_per_replica": engine.cpus_per_replica or self.cpus * share,
                "gpus_per_replica": self.gpus * share if engine.gpus_per_replica is None else engine.gpus_per_replica,
            }
        )
        evaluation = config.evaluation.model_copy(update={"engine": engine})
        return config.model_copy(update={"cluster": cluster, "evaluation": evaluation})


def place(config: Trials) -> Places:
    """Raises UserError where the cluster cannot hold so many trials at a time."""
    cluster, count = config.cluster, config.concurrency * config.cluster.workers
    gpus = cluster.gpus_per_worker if cluster.gpus_per_worker is not None else min(1.0, cluster_gpus() / count)
    cpus = cluster.cpus_per_worker or float(max(1, floor(cores_share(count, gpus))))
    check_resources("concurrency", count, cpus, gpus)
    return Places(cpus, gpus, cluster.workers, config.concurrency)


def tuned(
    trainable: Any,
    search: Any,
    samples: int,
    config: Trials,
    places: Places,
    directory: Path,
    watch: Any,
    *,
    scheduler: Any = None,
    reuse_actors: bool = True,
) -> None:
    """Run Tune to its end. Its own files, in the folder of the sweep, are of no use for resuming and are removed."""
    from ray import tune

    folder = directory / TUNE
    storage.remove(folder)
    if config.in_process:
        bundle = {"CPU": places.cpus, "GPU": places.gpus} if places.gpus else {"CPU": places.cpus}
    else:
        bundle = {"memory": DRIVER_BYTES}
    storage_path, filesystem = storage.for_ray(folder)
    tuner = tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory([bundle])),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=scheduler,
            num_samples=samples,
            max_concurrent_trials=places.concurrency,
            reuse_actors=reuse_actors,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=storage_path,
            storage_filesystem=filesystem,
            failure_config=tune.FailureConfig(max_failures=config.max_failures),
            callbacks=[watch],
            verbose=0,
        ),
    )
    try:
        with killed_for_memory_is_dead():
            tuner.fit()
    finally:
        storage.remove(folder)


@contextmanager
def killed_for_memory_is_dead() -> Iterator[None]:
    """Tune starts a trial again whose process died, but not one that Ray killed because a node's memory was full: that
    error is of another class, which ends the whole sweep. In here it is taken for a death, with what Ray says of it."""
    from ray.air.execution._internal.actor_manager import RayActorManager
    from ray.exceptions import OutOfMemoryError, RayActorError

    failed = RayActorManager._actor_task_failed

    def taken(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            reason = next((line for line in str(exception).splitlines() if "Memory usage" in line), str(exception))
            exception = RayActorError(error_msg=f"killed, the node's memory was full: {reason}")
        failed(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = taken
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = failed
