"""What an attack is: settings, and for each of them the records of a model before the attack and under it.

An attack's hyper-parameters are its fields, `type` is the discriminator. It knows neither which of the models is the
unlearned one nor how recovery is computed: it runs on all of them alike.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from obliviate import storage
from obliviate.data.rows import Corpus
from obliviate.digests import is_sound
from obliviate.runs import Run
from obliviate.schema import ClusterSpec, ModelSpec, Seed, Spec
from obliviate_eval.asked import suite_of
from obliviate_eval.records import RECORDS_FILE
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.suites.base import Suite
from obliviate_recipes.attacks.split import FORGET, Split, SplitSpec
from obliviate_recipes.events import Events
from obliviate_recipes.stage import MODEL, ModelStage, Stage
from obliviate_recipes.stages.measure import Measuring, Records

T = TypeVar("T")

ORIGINAL, RETAIN = "original", "retain"  # names of models in figures
# What every suite that measures a fact may have, larger where it is known, the headline first.
MEASURES = ("key_probability", "key_said", "probability", "extraction_strength", "rouge")


@dataclass(frozen=True)
class Measured:
    """The records that a stage makes; `file` in its run."""

    stage: Stage
    file: str = RECORDS_FILE

    @property
    def path(self) -> Path:
        return self.stage.run.directory / self.file


@dataclass(frozen=True)
class Attempt:
    """An attack at one setting on one model. Attempts that differ in their seed alone are one, with their mean.

    `on`: the measures that are read of the set `set`; `own_scale`: measured there in another way than before, which the
    first of MEASURES tells. `items`: of each row of that set, which item of V it asks about, an item being known where
    any of its rows is; None: row by row. `steps`: of a training, for curves. `changes`: whether the weights are other
    ones, so that the model may have lost what it was to keep.
    """

    setting: str
    before: Measured
    after: Measured
    on: tuple[str, ...] = MEASURES
    own_scale: bool = False
    set: str = FORGET
    items: tuple[int, ...] | None = None
    seed: int = 0
    steps: int | None = None
    changes: bool = False


@dataclass(frozen=True)
class Passing(Records):
    """Of a model that is made for this alone, and kept no longer: making it again takes seconds, keeping it a disk."""

    @property
    def maker(self) -> ModelStage:
        [stage] = self.before
        assert isinstance(stage, ModelStage)
        return stage

    def at_hand(self, model: ModelSpec) -> ModelSpec:
        shape = self.maker.shape
        return model.model_copy(update={key: getattr(shape, key) for key in ("source", "base", "revision")})

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        if not is_sound(storage.fetch(self.maker.folder)):
            self.maker.make(self.maker.run, events)
        found = super().make(run, events)
        self.maker.run.drop(MODEL)
        return found


@dataclass(frozen=True)
class Target:
    """A model under attack, and what makes it."""

    name: str
    model: ModelSpec
    needs: tuple[Stage, ...] = ()


class Job(Protocol):
    """What configs of jobs have in common."""

    @property
    def cluster(self) -> ClusterSpec: ...
    @property
    def seed(self) -> int: ...
    @property
    def runs(self) -> str: ...


@dataclass(frozen=True)
class Scene:
    """What all attacks of a job share. `measuring`: V as the set FORGET, and what is kept. `original` and `retain` for
    attacks that compare with them; the latter None without a control."""

    split: Split
    measuring: Measuring
    cluster: ClusterSpec
    seed: Seed
    original: Target
    retain: Target | None
    _plain: dict[str, Records] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        corpus: Corpus,
        split: SplitSpec,
        evaluation: EvaluationSpec,
        job: Job,
        *,
        original: "Target",
        retain: "Target | None",
    ) -> "Scene":
        """Raises UserError where the forget rows cannot be split."""
        found = Split.of(corpus, split)
        measuring = Measuring(found.corpus(corpus), evaluation, job.cluster.address, job.runs)
        return cls(found, measuring, job.cluster, job.seed, original, retain)

    @property
    def runs(self) -> str:
        return self.measuring.runs

    @cached_property
    def suite(self) -> Suite:
        """What of the suite tells whether a fact is known."""
        suite = suite_of(self.measuring.spec)
        metrics = tuple(metric for metric in suite.metrics if metric.type in MEASURES)
        return replace(suite, metrics=metrics, comparisons=(), aggregates=())

    def plain(self, target: Target) -> Measured:
        """The model as it is, asked as usual, on the engine."""
        return Measured(self.plain_records(target))

    def plain_records(self, target: Target) -> Records:
        if target.name not in self._plain:
            self._plain[target.name] = self.records(target.name, target.model, target.needs)
        return self._plain[target.name]

    def records(self, name: str, model: ModelSpec, needs: tuple[Stage, ...]) -> Records:
        """Of a model on the same items as all others."""
        return Records(self.measuring, name, model, needs)

    def changed(self, target: Target, setting: str, stage: ModelStage) -> Attempt:
        """The attempt of a stage that makes another model of the target."""
        records = Passing(self.measuring, f"{target.name} {setting}", stage.model, (stage,))
        return Attempt(setting, self.plain(target), Measured(records), changes=True)


@dataclass(frozen=True)
class OnTarget(Stage):
    """What is done to one model under attack, or read of it."""

    target: Target
    scene: Scene

    @property
    def label(self) -> str:
        return self.target.name

    @property
    def runs(self) -> str:
        return self.scene.runs

    @property
    def needs(self) -> tuple[Stage, ...]:
        return self.target.needs


class Attack(Spec, ABC):
    """`title`, `source`: what `obliviate attacks` prints. `diagnosis`: whether no attacker could do it, so that it does
    not count in the robustness score."""

    title: ClassVar[str]
    source: ClassVar[str]
    diagnosis: ClassVar[bool] = False

    type: str
    name: str = ""  # in reports; empty: the type

    @property
    def label(self) -> str:
        return self.name or self.type

    @abstractmethod
    def attempts(self, target: Target, scene: Scene) -> Sequence[Attempt]:
        """At every setting. Raises UserError where the data or the model do not have what it takes."""

    def beside(self, target: Target, scene: Scene) -> Sequence[Stage]:
        """Stages that say more of the target than what is measured."""
        return ()

    def check(self, scene: Scene) -> None:
        """Raises UserError for what can be known before anything is made."""


@dataclass(frozen=True)
class OfAttack(OnTarget):
    """One stage of an attack on one model."""

    attack: Attack

    @property
    def title(self) -> str:
        return f"attack {self.target.name}: {self.attack.label}"


def rising(of: str) -> Callable[[tuple[int, ...]], tuple[int, ...]]:
    """Raises ValueError for numbers that do not rise from 1 on; `of`: what they count."""

    def checked(numbers: tuple[int, ...]) -> tuple[int, ...]:
        if list(numbers) != sorted(set(numbers)) or min(numbers, default=1) < 1:
            raise ValueError(f"{list(numbers)}: give rising numbers of {of}, from 1 on")
        return numbers

    return checked


def each_once(values: tuple[T, ...]) -> tuple[T, ...]:
    """Raises ValueError for settings one of which is there twice."""
    if len(set(values)) < len(values):
        raise ValueError(f"{list(values)}: holds one twice; give each once")
    return values
