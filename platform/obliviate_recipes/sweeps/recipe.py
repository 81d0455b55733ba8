"""`obliviate sweep`: what all trials share, Ray Tune over the trials, the front, the report.

Running the same command again is how a sweep is resumed: every point is proposed again, and what is on disk is not done
again. Tune's own state, pickles of one version of the code, is not needed for it and is thrown away.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import ClassVar

from obliviate import storage
from obliviate.cluster import ensure_ray
from obliviate.data.rows import Corpus, require_training_texts
from obliviate.data.schedule import Schedule
from obliviate.models import content_of
from obliviate.runs import Run
from obliviate_eval.robustness import ROBUSTNESS_FILE, Robustness
from obliviate_eval.summary import METRICS_FILE, Evaluation
from obliviate_recipes.attacks.base import ORIGINAL, RETAIN, Attack, Target
from obliviate_recipes.attacks.outcome import Robust
from obliviate_recipes.costs.estimate import Part, estimate
from obliviate_recipes.costs.hardware import Cluster
from obliviate_recipes.events import QUIET, Events
from obliviate_recipes.recipe import OfData
from obliviate_recipes.several import Models, judge_of
from obliviate_recipes.stage import MODEL, ModelStage, Stage, all_of, perform
from obliviate_recipes.stages.composed import trainings, unlearning_stage
from obliviate_recipes.stages.measure import Figures, Measuring
from obliviate_recipes.stages.negation import Negation
from obliviate_recipes.stages.opening import opened
from obliviate_recipes.stages.unlearning import Unlearn, check_data
from obliviate_recipes.sweeps.calibrate import HALVINGS, calibrate
from obliviate_recipes.sweeps.records import read_records
from obliviate_recipes.sweeps.result import Result, write_result
from obliviate_recipes.sweeps.robust import attacked, compared
from obliviate_recipes.sweeps.sampler import Sampler, open_sampler
from obliviate_recipes.sweeps.spec import NoScheduler, OptunaSampler, SweepRun
from obliviate_recipes.sweeps.trial import Shared, objectives, run_trial
from obliviate_recipes.sweeps.tuning import TUNE_ENVIRONMENT, Places, place, tuned
from obliviate_recipes.sweeps.watch import Watch

# What changes how fast a sweep runs, or what is made of its trials, but not the trials.
PLACEMENT = {"cluster", "runs", "concurrency", "max_failures", "node_cache", "tracking", "choose", "calibrate",
             "calibrate_to"}  # fmt: skip


class Sweep(OfData[SweepRun, Result]):
    """What all trials share is made first; Ray Tune gives each trial a process; the rest is made of what they found."""

    takes: ClassVar = SweepRun
    reports: ClassVar = True

    def __init__(self, config: SweepRun) -> None:
        # Trials may run in another folder than this command.
        super().__init__(config.model_copy(update={"runs": storage.name(storage.local(config.runs))}))

    @cached_property
    def models(self) -> Models:
        found, opening = Models.of(self.config, self.corpus), None
        target = found.target.model_copy(update={"lora": None})
        if not found.before:
            opening = opened(target, self.config.runs)
        return found if opening is None else replace(found, target=opening.model, before=(opening,))

    @cached_property
    def measuring(self) -> Measuring:
        config = self.config
        share = min(1.0, config.cluster.gpus_per_worker or 1.0) if config.in_process else 1.0
        return Measuring(
            self.corpus, config.evaluation, config.cluster.address, config.runs, config.measures_here, share,
            waits=True, nli=judge_of(config),
        )  # fmt: skip

    @cached_property
    def retain(self) -> Figures | None:
        model = self.models.retain
        return None if model is None else self.measuring.figures("retain", model, None, self.models.before)

    @cached_property
    def original(self) -> Figures:
        """Of the model that must forget."""
        return self.measuring.figures("target", self.models.target, self.retain, self.models.before)

    @cached_property
    def stages(self) -> Sequence[Stage]:
        """What all trials share: models, judge, evaluations, and what prepares a method's training. Here, where engines
        and workers find room: in a trial they would wait for what the trial itself holds."""
        retain = [] if self.retain is None else [self.retain]
        seeds = product(self.config.space.methods, self.config.seeds)
        prepared = [each for method, seed in seeds for each in self._prepared(self.trial(method, seed))]
        attacked = () if self.config.robustness is None else self.robust((), self.config.robustness.attacks).needs
        return [*retain, self.original, *prepared, *attacked]

    def robust(self, targets: Sequence[Target], attacks: Sequence[Attack]) -> Robust:
        """Attacks on these models, beside the original and the retain model."""
        models = self.models
        assert models.retain is not None
        pair = compared(Target(ORIGINAL, models.target, models.before), Target(RETAIN, models.retain, models.before))
        return attacked(self.config, self.corpus, self.measuring, pair, targets, attacks)

    def trial(self, method: str, seed: int) -> ModelStage:
        """The training of a method at the first value of every axis."""
        config, models = self.config, self.models
        run = config.unlearning(config.space.first(method), seed, models.target.source)
        return unlearning_stage(run, self.corpus, models.before)

    def _prepared(self, trial: ModelStage) -> list[Stage]:
        """What its trainings need beside the models."""
        needs = [need for each in trainings(trial) for need in each.needs if need not in self.models.before]
        return [need for need in needs if not isinstance(need, Unlearn | Negation)]  # layers, which each trial trains

    @property
    def at_a_time(self) -> int:
        return self.config.concurrency

    def outline(self) -> Iterator[str]:
        check_methods(self.config, self.corpus)
        return super().outline()

    def afterwards(self) -> Iterator[str]:
        config, sampler = self.config, open_sampler(self.config, ())
        yield (
            f"{sampler.count} configurations x {len(config.seeds)} seeds = {sampler.count * len(config.seeds)} trials, "
            f"{config.concurrency} at a time, sampler {config.sampler.type}, scheduler {config.scheduler.type}"
        )
        if not isinstance(config.sampler, OptunaSampler):
            yield from _steps(config, len(self.corpus.forget))
        if config.calibrate:
            yield f"evaluate up to {HALVINGS} mixtures of each of {len(config.space.methods)} methods' chosen model"

    def estimate(self, cluster: Cluster) -> list[Part]:
        """All trials run to their end, at the first value of every axis."""

        shared, count = {stage.run.directory: stage for stage in all_of(self.stages)}, _counts(self.config)
        works = [work for stage in shared.values() for work in stage.work()]
        for method, configurations in count.items():
            own = [stage for stage in all_of(self._of_trial(method)) if stage.run.directory not in shared]
            works += [work for stage in own for work in stage.work()] * configurations * len(self.config.seeds)
        (measured,) = self.original.records.work()
        measurements = count.total() * len(self.config.seeds) + (HALVINGS * len(count) if self.config.calibrate else 0)
        return estimate([*works, *([measured] * measurements)], cluster, self.at_a_time)

    def _of_trial(self, method: str) -> list[Stage]:
        """What a trial of the method makes, but for its evaluation."""
        trial, robustness = self.trial(method, self.config.seeds[0]), self.config.robustness
        if robustness is None:
            return [trial]
        return [trial, self.robust([Target(method, trial.model, (trial,))], robustness.attacks)]

    def perform(self, events: Events) -> Result:
        for name, value in TUNE_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        check_methods(self.config, self.corpus)
        run = open_sweep(self.config, self.corpus)
        with run.locked():
            ensure_ray(self.config.cluster.address, dashboard=not self.config.in_process)
            self.places = place(self.config)
            self.config = self.places.applied_to(self.config)
            self.directory = run.directory
            return super().perform(events)

    def conclude(self, events: Events) -> Result:
        """Runs the trials that are not done yet; the result, which is on disk with its report."""
        config = self.config
        known = list({each.trial.point.id: each.trial.point for each in read_records(self.directory)}.values())
        sampler = open_sampler(config, known)
        target, threads = self.models.target, max(1, int(self.places.cpus))
        shared = Shared(self.directory, config, self.corpus, self.measuring.spec, target, self.models.retain, threads)
        original = objectives(Evaluation.read(self.original.run.directory / METRICS_FILE), config)
        with Watch(self.directory, config, sampler.count * len(config.seeds), events) as watch:
            _tune(shared, sampler, self.places, watch)
        result = Result.of(config, self.directory, target.source, original)
        if config.calibrate or (config.robustness is not None and config.robustness.full):
            write_result(result, QUIET)  # there is a report, whatever becomes of the rest
        if config.robustness is not None and config.robustness.full:
            result = replace(result, full=self._attack_front(result, config.robustness.full, events))
        if config.calibrate:
            result = replace(result, calibrated=calibrate(result, shared, events))
        write_result(result, events)
        events.ended(self.directory)
        return result

    def _attack_front(self, result: Result, attacks: Sequence[Attack], events: Events) -> Robustness | None:
        """All attacks on the models of the front, of several seeds the first one's; None where there is no front."""
        records = [each.trials[0] for each in result.ranked if each.on_front]
        if not records:
            return None
        model = self.models.target
        found = [Target(each.id, model.at(storage.name(storage.local(str(each.run)) / MODEL))) for each in records]
        robust = self.robust(found, attacks)
        perform([robust], events)
        events.said(f"attacks on the front: {storage.name(robust.run.directory / ROBUSTNESS_FILE)}")
        return Robustness.read(robust.run.directory / ROBUSTNESS_FILE)


def open_sweep(config: SweepRun, corpus: Corpus) -> Run:
    """The sweep's folder. Raises UserError where it cannot be written."""
    spec = config.model_dump(mode="json", exclude=PLACEMENT)
    data = {"data": corpus.training_content, "measured": corpus.evaluation_content}
    inputs = {"model": content_of(config.model), **data}
    return Run.at(Path(config.runs), "sweep", config.title, spec, inputs).begin()


def check_methods(config: SweepRun, corpus: Corpus) -> None:
    """Raises UserError where a method cannot run on the data, before anything is computed for its trials."""
    require_training_texts(corpus)
    for point in config.space.corners():
        check_data(config.unlearning(point, 0, ""), corpus)


def _counts(config: SweepRun) -> Counter[str]:
    """Method -> its configurations: those that will be proposed, or an equal share where earlier trials decide."""
    sampler, methods = open_sampler(config, ()), list(config.space.methods)
    if isinstance(config.sampler, OptunaSampler):
        return Counter({method: len(range(i, sampler.count, len(methods))) for i, method in enumerate(methods)})
    return Counter(point.method for point in iter(sampler.propose, None))


def _steps(config: SweepRun, anchors: int) -> list[str]:
    """Of the points that are known beforehand, if every trial ran to its end."""
    sampler, steps = open_sampler(config, ()), Counter[str]()
    for point in iter(sampler.propose, None):
        run = config.unlearning(point, 0, "")
        steps[point.method] += Schedule(anchors, 1, 1, run.optim, 0).steps * len(config.seeds)
    count = _counts(config)
    return [f"  {method}: {count[method]} configurations, {steps[method]} steps at most" for method in steps]


def _tune(shared: Shared, sampler: Sampler, places: Places, watch: Watch) -> None:
    from ray import tune

    from obliviate_recipes.sweeps.scheduler import open_scheduler
    from obliviate_recipes.sweeps.search import Search

    config = shared.config
    tuned(
        tune.with_parameters(run_trial, shared=shared, folder=storage.name(shared.directory)),
        Search(sampler, config.seeds),
        sampler.count * len(config.seeds),
        config,
        places,
        shared.directory,
        watch,
        scheduler=open_scheduler(config),
        # Judges and libraries stay loaded from trial to trial; but a training on workers of its own only ends with the
        # process that started it, which therefore a scheduler must be able to end.
        reuse_actors=config.in_process or isinstance(config.scheduler, NoScheduler),
    )
