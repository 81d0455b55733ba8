"""`obliviate sweep`: what is searched, how, on what, and by which rule a point of the result is chosen."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from obliviate.config import FinetuneRun, UnlearnRun, build
from obliviate.options import UnlearnOptions
from obliviate.schema import Seed, Spec
from obliviate_eval.asked import suite_of
from obliviate_recipes.attacks.depth import Patch
from obliviate_recipes.attacks.quantise import Quantise
from obliviate_recipes.attacks.relearn import Relearn
from obliviate_recipes.attacks.spec import AttackSpec, BudgetSpec, check_labels
from obliviate_recipes.attacks.split import SplitSpec
from obliviate_recipes.several import ComparedModels, check_seeds, sampled_by
from obliviate_recipes.sweeps.space import Point, Space

FORGET_QUALITY = "forget_quality"  # the p-value, where there is a retain model


class GridSampler(Spec):
    """Every combination of the axes' values."""

    type: Literal["grid"] = "grid"


class RandomSampler(Spec):
    """Independent draws."""

    type: Literal["random"] = "random"
    trials: int = Field(default=20, ge=1)  # configurations; each is run with every seed
    seed: Seed = 0


class OptunaSampler(Spec):
    """Optuna's multi-objective tree-structured Parzen estimator (Ozaki et al. 2020, doi:10.1145/3377930.3389817)."""

    type: Literal["optuna"] = "optuna"
    trials: int = Field(default=20, ge=1)  # configurations; each is run with every seed
    startup: int = Field(default=10, ge=1)  # of them at random, before the model of the space is used
    seed: Seed = 0


class NoScheduler(Spec):
    """Every trial runs to its end."""

    type: Literal["none"] = "none"


class ASHAScheduler(Spec):
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934) for a front (Schmucker et al. 2021,
    arXiv:2106.12639): at each rung the best 1/factor go on, by layers of the front, and spread over a layer."""

    type: Literal["asha"] = "asha"
    grace: int = Field(default=1, ge=1)  # points of the signal before the first rung
    reduction_factor: float = Field(default=3, gt=1)


class MedianScheduler(Spec):
    """Stops a trial whose best signal is below the median of the others' running means at the same point."""

    type: Literal["median"] = "median"
    grace: int = Field(default=1, ge=1)  # points of the signal before a trial may be stopped
    min_trials: int = Field(default=3, ge=1)  # that must have come as far


class SignalSpec(Spec):
    """What schedulers decide on: 1 - forget probability and retain probability of the true answers; `median` on their
    product."""

    points: int = Field(default=9, ge=1)  # how often in a training, in equal shares of its steps
    rows: int = Field(default=32, ge=1)  # looked at, of the forget set and of the retain set


class Objectives(Spec):
    """The two figures of the front, both in [0, 1] and better when higher."""

    forget: str = "forget_efficacy"
    utility: str = "model_utility"


class RobustnessSpec(Spec):
    """A third figure of the front: 1 - the excess recovery of attacks that take seconds, measured on each trial's model
    beside the retain model's."""

    attacks: tuple[AttackSpec, ...] = Field(
        default=(Patch(), Quantise(formats=("int4_g128",)), Relearn(steps=(5,))), min_length=1
    )
    full: tuple[AttackSpec, ...] = ()  # on the models of the front, once all trials have ended
    split: SplitSpec = SplitSpec()
    budget: BudgetSpec = BudgetSpec()

    @model_validator(mode="after")
    def _labels_differ(self) -> "RobustnessSpec":
        check_labels(self.attacks)
        check_labels(self.full)
        return self


class Knee(Spec):
    """The point farthest from the line through the ends of the front, both axes scaled to it (Das 1999)."""

    type: Literal["knee"] = "knee"


class UtilityAtLeast(Spec):
    """The most forgotten among those that keep at least this share of the original's utility."""

    type: Literal["utility"] = "utility"
    share: float = Field(default=0.95, gt=0, le=1)


class WeightedSum(Spec):
    """The largest forget_weight x forget + (1 - forget_weight) x utility."""

    type: Literal["weighted"] = "weighted"
    forget_weight: float = Field(default=0.5, ge=0, le=1)


AnySampler = Annotated[GridSampler | RandomSampler | OptunaSampler, Field(discriminator="type")]
AnyScheduler = Annotated[NoScheduler | ASHAScheduler | MedianScheduler, Field(discriminator="type")]
AnyChoice = Annotated[Knee | UtilityAtLeast | WeightedSum, Field(discriminator="type")]


class Trials(ComparedModels):
    """Jobs of many trials, each in a process that Ray Tune gives it."""

    concurrency: int = Field(default=1, ge=1)  # trials at a time
    max_failures: int = Field(default=1, ge=0)  # times that a trial whose process died is started again

    @property
    def in_process(self) -> bool:
        """Whether a trial trains in its own process, and measures with what that holds."""
        engine, gpus = self.evaluation.engine, self.cluster.gpus_per_worker
        alike = engine.replicas == engine.tensor_parallel == 1 and engine.gpus_per_replica in (None, gpus)
        return self.cluster.workers == 1 and (engine.type == "hf" or alike)

    @property
    def measures_here(self) -> bool:
        """Whether the driver measures models itself: without GPUs an actor would only take seconds to start."""
        return self.in_process and self.evaluation.engine.type == "hf" and not self.cluster.gpus_per_worker


class SweepRun(Trials):
    """A search over methods and their parameters. `optim` and `model` hold what the space does not vary."""

    title: str = "Sweep"
    space: Space
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)  # each configuration runs with each
    sampler: AnySampler = GridSampler()
    scheduler: AnyScheduler = NoScheduler()
    signal: SignalSpec = SignalSpec()
    objectives: Objectives = Objectives()
    # None: the front has two figures. Absent from a sweep's address where there is none.
    robustness: RobustnessSpec | None = Field(default=None, exclude_if=lambda robustness: robustness is None)
    choose: AnyChoice = Knee()
    calibrate: bool = False  # compare the methods' chosen points at equal utility, too
    calibrate_to: float = Field(default=0.95, gt=0, lt=1)  # share of the original's utility
    node_cache: str | None = None  # folder on each node's own disk that models are copied to once; None: read in place

    @model_validator(mode="after")
    def _check_space(self) -> "SweepRun":
        self.space.check_names()
        reinforcing: dict[str, FinetuneRun | None] = {}
        for point in self.space.corners():
            run = self.unlearning(point, 0, "")
            run.check_measured_bare()
            if len(run.learnings) > 1:
                raise ValueError(
                    f"space: {point.method}: method.learning_rates learn several times, and a trial trains once; leave "
                    "them out"
                )
            made = run.reinforcing
            if reinforcing.setdefault(point.method, made) != made:
                raise ValueError(
                    f"space: {point.method}: its reinforced model is trained before the trials, one for all; leave out "
                    "axes of model and reinforcement"
                )
        return self

    @model_validator(mode="after")
    def _check_objectives(self) -> "SweepRun":
        suite = suite_of(self.evaluation)
        known = [aggregate.name for aggregate in suite.aggregates]
        if self.finetune is not None or self.retain_model is not None:
            known.append(FORGET_QUALITY)
        for key, metric in self.objectives.model_dump().items():
            if metric not in known:
                raise ValueError(f"objectives.{key}: the suite {suite.name} gives no {metric!r}; {_known(known)}")
        return self

    @model_validator(mode="after")
    def _survival_can_be_told(self) -> "SweepRun":
        if self.robustness is not None and self.finetune is None and self.retain_model is None:
            raise ValueError(
                "robustness: what comes back is told beside a model that never knew; give retain_model, or finetune, "
                "which trains it"
            )
        return self

    @model_validator(mode="after")
    def _grace_ends_before_training_does(self) -> "SweepRun":
        points = self.signal.points
        match self.scheduler:
            case ASHAScheduler(grace=grace, reduction_factor=factor) if grace * factor > points:
                raise ValueError(
                    f"scheduler.grace: {grace} times reduction_factor {factor:g} is above signal.points: {points}; the "
                    "last rung lies a factor before the end, so that no trial could be stopped"
                )
            case MedianScheduler(grace=grace) if grace >= points:
                raise ValueError(
                    f"scheduler.grace: {grace} is not below signal.points: {points}; every trial would have ended "
                    "before one could be stopped"
                )
        return self

    @model_validator(mode="after")
    def _weights_can_be_mixed(self) -> "SweepRun":
        if self.calibrate and self.model.lora is not None and not self.model.lora.merge:
            raise ValueError(
                "calibrate: true mixes whole weights, and model.lora.merge: false keeps adapters apart; set "
                "model.lora.merge: true, or calibrate: false"
            )
        return self

    @model_validator(mode="after")
    def _seeds_differ(self) -> "SweepRun":
        check_seeds(self.seeds)
        return self

    def base(self, source: str) -> dict[str, Any]:
        """What all trials' configs share, the model that must forget being at `source`."""
        return {
            "model": self.model.at(source).model_dump(mode="json"),
            "data": self.data.model_dump(mode="json"),
            **self.model_dump(mode="json", include=set(UnlearnOptions.model_fields)),
            "alternatives": sampled_by(self.evaluation.engine, self.alternatives),
            "optim": self.optim.model_dump(mode="json"),
            "cluster": self.cluster.model_dump(mode="json"),
            "runs": self.runs,
        }

    def unlearning(self, point: Point, seed: int, source: str) -> UnlearnRun:
        """The full config of one trial. Raises UserError where the method refuses a value."""
        return build(UnlearnRun, self.base(source), [*point.overrides, f"seed={seed}"], where=f"space: {point.method}")

    def canonical(self, point: Point) -> Point:
        """The same point with its values as the config holds them: 1e-5, "1e-5" and 0.00001 are one."""
        resolved = self.unlearning(point, 0, "").model_dump(mode="json")
        return Point(point.method, {name: at(resolved, name) for name in point.values})

    @property
    def objective_count(self) -> int:
        return 2 if self.robustness is None else 3


def at(tree: Any, name: str) -> Any:
    for step in name.split("."):
        tree = tree[int(step)] if isinstance(tree, list) else tree.get(step)  # None: a wrapper that is off
    return tree


def _known(metrics: list[str]) -> str:
    return f"it gives: {', '.join(metrics)}" + (
        "" if FORGET_QUALITY in metrics else f" ({FORGET_QUALITY} needs a retain model)"
    )
