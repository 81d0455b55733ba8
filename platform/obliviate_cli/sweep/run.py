"""A sweep from start to end: what all trials share, Ray Tune over the trials, the front, the report.

Running the same command again is how a sweep is resumed: every point is proposed again, and what is on disk is not done
again. Tune's own state, pickles of one version of the code, is not needed for it and is thrown away.
"""

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
from math import floor
from pathlib import Path

from rich.console import Console

from obliviate import storage
from obliviate.cluster import check_resources, cluster_gpus, cores_share, ensure_ray
from obliviate.data.rows import Corpus
from obliviate.models import content_of
from obliviate.runs import Run
from obliviate_cli.alternatives import with_alternatives
from obliviate_cli.compare import make_models, train_judge
from obliviate_cli.measure import Measure
from obliviate_cli.stages import finetune, opened_alike
from obliviate_cli.sweep.calibrate import calibrate
from obliviate_cli.sweep.front import Pair
from obliviate_cli.sweep.logs import open_logs
from obliviate_cli.sweep.plan import check_methods
from obliviate_cli.sweep.records import read_records
from obliviate_cli.sweep.result import Result, write_result
from obliviate_cli.sweep.sampler import Sampler, open_sampler
from obliviate_cli.sweep.spec import NoScheduler, SweepRun
from obliviate_cli.sweep.trial import QUIET, Shared, objectives, run_trial
from obliviate_cli.sweep.watch import Watch
from obliviate_eval.summary import METRICS_FILE, Evaluation

# What changes how fast a sweep runs, or what is made of its trials, but not the trials.
PLACEMENT = {"cluster", "runs", "concurrency", "max_failures", "node_cache", "mlflow", "choose", "calibrate",
             "calibrate_to"}  # fmt: skip
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


def sweep(config: SweepRun, console: Console) -> Result:
    """Run what is not done yet; the result, which is on disk with its report. Raises UserError."""
    for name, value in TUNE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Trials may run in another folder than this command.
    config = config.model_copy(update={"runs": storage.name(storage.local(config.runs))})
    corpus = config.data.load()
    for warning in corpus.warnings:
        console.print(f"warning: {warning}", style="yellow")
    check_methods(config, corpus)
    run = open_sweep(config, corpus)
    with run.locked():
        known = list({each.trial.point.id: each.trial.point for each in read_records(run.directory)}.values())
        sampler = open_sampler(config, known)
        with ExitStack() as stack:  # a log that cannot be opened is told now, not after hours
            for log in open_logs(run.directory, config):
                stack.enter_context(log)
        ensure_ray(config.cluster.address, dashboard=not config.in_process)
        places = place(config)
        shared, original = _share(places.applied_to(config), run, corpus, places, console)
        with Watch(run.directory, config, sampler.count * len(config.seeds), console) as watch:
            _tune(shared, sampler, places, watch)
        result = Result.of(config, run.directory, shared.target.source, original)
        if config.calibrate:
            write_result(result, QUIET)  # there is a report, whatever becomes of the rest
            result = replace(result, calibrated=calibrate(result, shared, console))
        write_result(result, console)
    return result


def open_sweep(config: SweepRun, corpus: Corpus) -> Run:
    """The sweep's folder. Raises UserError where it cannot be written."""
    spec = config.model_dump(mode="json", exclude=PLACEMENT)
    data = {"data": corpus.training_content, "measured": corpus.evaluation_content}
    inputs = {"model": content_of(config.model), **data}
    return Run.open(Path(config.runs), "sweep", config.title, spec, inputs)


@dataclass(frozen=True)
class Places:
    """What each training worker of a trial gets, and how many trials run at a time."""

    cpus: float
    gpus: float
    workers: int
    concurrency: int

    def applied_to(self, config: SweepRun) -> SweepRun:
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


def place(config: SweepRun) -> Places:
    """Raises UserError where the cluster cannot hold so many trials at a time."""
    cluster, count = config.cluster, config.concurrency * config.cluster.workers
    gpus = cluster.gpus_per_worker if cluster.gpus_per_worker is not None else min(1.0, cluster_gpus() / count)
    cpus = cluster.cpus_per_worker or float(max(1, floor(cores_share(count, gpus))))
    check_resources("concurrency", count, cpus, gpus)
    return Places(cpus, gpus, cluster.workers, config.concurrency)


def _share(config: SweepRun, run: Run, corpus: Corpus, places: Places, console: Console) -> tuple[Shared, Pair]:
    """What all trials share, computed once: models, judge, evaluations, sampled answers; and the original's figures."""
    spec = config.evaluation
    if config.train_nli is not None:
        spec = spec.model_copy(update={"nli": train_judge(config.train_nli, config, console)})
    target, retain = make_models(config, console)
    target = opened_alike(target.model_copy(update={"lora": None}), config.runs)
    measure = Measure(corpus, spec, config.cluster.address, Path(config.runs), console, config.measures_here, wait=True)
    reference = None if retain is None else measure("retain", retain)
    original = measure("target", target, reference)
    for method, seed in product(config.space.methods, config.seeds):
        # Here, where engines and workers find room: in a trial they would wait for what the trial itself holds.
        first = config.unlearning(config.space.first(method), seed, target.source)
        with_alternatives(first, corpus, console)
        if (reinforcing := first.reinforcing) is not None:
            finetune(reinforcing, console)
    shared = Shared(run.directory, config, corpus, spec, target, reference, max(1, int(places.cpus)))
    return shared, objectives(Evaluation.read(original / METRICS_FILE), config)


def _tune(shared: Shared, sampler: Sampler, places: Places, watch: Watch) -> None:
    from ray import tune

    from obliviate_cli.sweep.scheduler import open_scheduler
    from obliviate_cli.sweep.search import Search

    config, folder = shared.config, shared.directory / TUNE
    storage.remove(folder)
    if config.in_process:
        bundle = {"CPU": places.cpus, "GPU": places.gpus} if places.gpus else {"CPU": places.cpus}
    else:
        bundle = {"memory": DRIVER_BYTES}
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, shared=shared, folders=shared.folders), tune.PlacementGroupFactory([bundle])
    )
    storage_path, filesystem = storage.for_ray(folder)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=Search(sampler, config.seeds),
            scheduler=open_scheduler(config),
            num_samples=sampler.count * len(config.seeds),
            max_concurrent_trials=places.concurrency,
            # Judges and libraries stay loaded from trial to trial; but a training on workers of its own only ends with
            # the process that started it, which therefore a scheduler must be able to end.
            reuse_actors=config.in_process or isinstance(config.scheduler, NoScheduler),
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
        tuner.fit()
    finally:
        storage.remove(folder)
