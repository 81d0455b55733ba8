"""One trial of a sweep, in the process that Ray Tune gives it: unlearn, tell the signal on the way, measure, record.

Its model and its figures are ordinary runs in the folder of all runs, content-addressed: the command that reproduces a
trial finds them, another sweep over the same point does too, and a trial that was cut off goes on from its checkpoint.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

from obliviate import storage
from obliviate.config import UnlearnRun
from obliviate.data.rows import Corpus
from obliviate.digests import is_sound
from obliviate.errors import DivergedError, UserError
from obliviate.models import content_of, locate
from obliviate.runs import content_hash, whole_folder
from obliviate.schema import ModelSpec
from obliviate.train.checkpoint import latest, steps_of
from obliviate.train.job import CHECKPOINTS, Job, Reporter
from obliviate.train.log import read_steps
from obliviate.train.signal import Signal
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.summary import METRICS_FILE, Evaluation
from obliviate_recipes.attacks.base import ORIGINAL, RETAIN, Target
from obliviate_recipes.attacks.outcome import Robust
from obliviate_recipes.events import QUIET
from obliviate_recipes.stage import ModelStage
from obliviate_recipes.stage import perform as perform_stages
from obliviate_recipes.stages.composed import unlearning_stage
from obliviate_recipes.stages.measure import Measuring
from obliviate_recipes.sweeps.records import Trial, TrialRecord
from obliviate_recipes.sweeps.robust import attacked, compared, surviving
from obliviate_recipes.sweeps.robust import figures as figures_of
from obliviate_recipes.sweeps.space import Point
from obliviate_recipes.sweeps.spec import FORGET_QUALITY, SweepRun

Report = Callable[[dict[str, Any]], None]
STOPPING_S = 60  # how long a stopped trial may take to leave its process: Tune drops a next one that finds it busy
REFERENCE = "reference"  # folder in that of the sweep: the original's constants, which its trials share


@dataclass(frozen=True)
class Shared:
    """What all trials of a sweep have in common; one is as good as another of the same folder."""

    directory: Path  # of the sweep
    config: SweepRun = field(compare=False)
    corpus: Corpus = field(compare=False)
    evaluation: EvaluationSpec = field(compare=False)
    target: ModelSpec = field(compare=False)
    retain: ModelSpec | None = field(compare=False)
    threads: int = field(compare=False)


@lru_cache(maxsize=1)
def _measuring(shared: Shared) -> Measuring:
    """Kept from trial to trial of one process: judges are loaded once, not once a trial."""
    config = shared.config
    return Measuring(
        shared.corpus, shared.evaluation, config.cluster.address, config.runs, config.in_process, waits=True
    )


def run_trial(tuned: Mapping[str, Any], shared: Shared, folder: str) -> None:
    """The function that Ray Tune calls; `tuned` holds method, values and seed, `folder` is what every node
    calls that of the sweep."""
    import torch
    from ray import tune

    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", str(STOPPING_S))
    torch.set_num_threads(shared.threads)
    trial = Trial(shared.config.canonical(Point(tuned["method"], tuned["values"])), tuned["seed"])
    perform(trial, replace(shared, directory=storage.local(folder)), tune.report)


def perform(trial: Trial, shared: Shared, report: Report) -> None:
    """Everything of one trial. What the trial itself cannot mend is recorded with its cause, not raised: Tune would
    start it again, and the same would come of it. A loss that is not finite is so for good; anything else, a full disk
    or a store out of reach, may be mended before the same command tries again.

    A trial that the scheduler stops leaves through SystemExit, out of `report`.
    """
    record = TrialRecord.find(shared.directory, trial)
    if record is not None and record.settled:
        _replay(record, report)
        return
    config = shared.config.unlearning(trial.point, trial.seed, shared.target.source)
    record = TrialRecord.start(trial)
    record.write(shared.directory)
    try:
        _train_and_measure(record, config, shared, report)
    except DivergedError as error:
        replace(record, status="failed", cause=str(error)).write(shared.directory)
    except UserError as error:
        replace(record, status="crashed", cause=str(error)).write(shared.directory)


def _train_and_measure(record: TrialRecord, config: UnlearnRun, shared: Shared, report: Report) -> None:
    began_s = perf_counter()
    last: dict[str, Any] = {}

    def on_step(metrics: Mapping[str, Any]) -> None:
        if "signal" in metrics:
            last.update(as_metrics(metrics))
            report(dict(last))

    trained: list[Job] = []

    def train(job: Job, folder: Path, shown: Reporter) -> None:
        """To the end, from wherever an earlier attempt stopped; the steps of that one are told again."""
        trained.append(job)
        _train(_of_trial(job, config, shared), folder, config, shared, on_step)

    stage = unlearning_stage(config, shared.corpus, train=train)
    perform_stages([stage], QUIET)
    if not trained:  # several scales of a task vector have one training, and another sweep may have been here
        for step in read_steps(stage.run.directory):
            on_step(step)
    trained_s = perf_counter()
    measuring = _measuring(shared)
    retain = None if shared.retain is None else measuring.figures("retain", shared.retain)
    figures = measuring.figures(config.label, stage.model, retain, (stage,))
    perform_stages([figures], QUIET)
    forget, utility = objectives(Evaluation.read(figures.run.directory / METRICS_FILE), shared.config)
    robust = _attacked(record.id, stage, shared)
    if robust is not None:
        perform_stages([robust], QUIET)
    ended_s = perf_counter()
    done = replace(
        record,
        status="done",
        run=storage.name(stage.run.directory),
        evaluation=storage.name(figures.run.directory),
        forget=forget,
        utility=utility,
        survives=None if robust is None else surviving(figures_of(robust, record.id)),
        attacked=None if robust is None else storage.name(robust.run.directory),
        steps=stage.run.summary["steps"],
        signals=tuple(as_metrics(step) for step in read_steps(stage.run.directory) if "signal" in step),
        train_s=trained_s - began_s,
        evaluate_s=ended_s - trained_s,
    )
    done.write(shared.directory)
    report(_final(done))


def _attacked(name: str, stage: ModelStage, shared: Shared) -> Robust | None:
    """What tells how much of its forgetting survives. The original and the retain model were attacked before."""
    spec = shared.config.robustness
    if spec is None:
        return None
    assert shared.retain is not None
    models = compared(Target(ORIGINAL, shared.target), Target(RETAIN, shared.retain))
    target = Target(name, stage.model, (stage,))
    return attacked(shared.config, shared.corpus, _measuring(shared), models, [target], spec.attacks)


def _of_trial(job: Job, config: UnlearnRun, shared: Shared) -> Job:
    """With the signal that schedulers decide on."""
    spec = shared.config.signal
    # What a task vector learns is the reverse of what it is for: no scheduler could judge it before it is subtracted.
    signal = None if config.method.negation is not None else Signal(spec.points, spec.rows)
    reference = shared.directory / REFERENCE
    return replace(job, model=_near(job.model, shared), signal=signal, shared_reference=reference)


def _train(job: Job, folder: Path, config: UnlearnRun, shared: Shared, on_step: Reporter) -> None:
    if shared.config.in_process:
        _train_here(job, folder, on_step)
        return
    from obliviate.train.launch import launch

    launch(job, config.cluster, folder, on_step)


def _train_here(job: Job, folder: Path, on_step: Reporter) -> None:
    """In this process: a worker of its own would take seconds to start, for a training of a minute."""
    from obliviate.train.here import alone
    from obliviate.train.produce import train_and_write

    checkpoint = latest(job.directory / CHECKPOINTS)
    done = 0 if checkpoint is None else steps_of(checkpoint)
    for step in read_steps(job.directory):
        if step["step"] <= done:
            on_step(step)
    with alone() as device:
        train_and_write(job, folder, on_step, device=device)


def _near(model: ModelSpec, shared: Shared) -> ModelSpec:
    """The model's copy on this node's own disk, made by the first trial that runs here; as it is without a cache."""
    source = Path(locate(model.source))
    if shared.config.node_cache is None or not source.is_dir():
        return model
    key = content_hash([str(source), content_of(model)])[:16]
    copy = Path(shared.config.node_cache).expanduser() / key
    copy.parent.mkdir(parents=True, exist_ok=True)
    with copy.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # trials that start together wait for one copy
        if not is_sound(copy):
            with whole_folder(copy) as temporary:
                shutil.copytree(source, temporary, dirs_exist_ok=True)
    return model.model_copy(update={"source": str(copy)})


def as_metrics(step: Mapping[str, Any]) -> dict[str, Any]:
    """What schedulers see of a logged step that carries a signal.

    The signal is the area that the trial alone would dominate in (1 - forget probability, retain probability): the
    scale of the front's hypervolume. Without a retain set only forgetting counts.
    """
    found = step["signal"]
    kept = 1.0 if found["retain"] is None else found["retain"]
    return {
        "point": found["point"],
        "step": step["step"],
        "steps": step["steps"],
        "signal": (1 - found["forget"]) * kept,
        "forget_probability": found["forget"],
        "retain_probability": found["retain"],
    }


def objectives(evaluation: Evaluation, config: SweepRun) -> tuple[float, float]:
    """Forget and utility figure. Raises UserError where one could not be computed."""
    found = []
    for key, metric in config.objectives.model_dump().items():
        if metric == FORGET_QUALITY:
            value = None if evaluation.forget_quality is None else evaluation.forget_quality.p_value
        else:
            value = evaluation.aggregates[metric].value
        if value is None:
            raise UserError(f"objectives.{key}: {metric} could not be computed: no item was scored for it")
        found.append(value)
    return found[0], found[1]


def _figures(record: TrialRecord) -> dict[str, Any]:
    survives = {} if record.survives is None else {"survives": record.survives}
    return {"forget": record.forget, "utility": record.utility, **survives}


def _final(record: TrialRecord) -> dict[str, Any]:
    """Its figures, one point after the last signal; without a signal there is no point, and schedulers leave it out."""
    figures = _figures(record)
    if not record.signals:
        return figures
    last = record.signals[-1]
    return {**last, "point": last["point"] + 1, **figures}


def _replay(record: TrialRecord, report: Report) -> None:
    """Tell Tune again what is on disk, so that schedulers and samplers know it; nothing is computed.

    Figures go with every signal: should the scheduler, which sees the trials in another order than before, stop it now,
    the sampler still learns them.
    """
    figures = _figures(record) if record.status == "done" else {}
    for metrics in record.signals:
        report({**metrics, **figures})
    if figures:
        report(_final(record))
