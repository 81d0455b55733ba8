"""What a training is: all that its workers are told, and who is told of its steps.

Importing it is cheap for those who only pass a job on.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from obliviate.data.rows import Row
from obliviate.data.schedule import Schedule
from obliviate.methods import Ascent, ForgetObjective, Pass, Term, Text
from obliviate.schema import (
    LatentSpec,
    ModelSpec,
    OptimSpec,
    ProjectionSpec,
    QuantisationSpec,
    RectificationSpec,
    SharpnessSpec,
    StabilitySpec,
    StopSpec,
    TamperingSpec,
    UndoSpec,
)
from obliviate.train.phases import Updates
from obliviate.train.signal import Signal

if TYPE_CHECKING:
    from obliviate.train.model import ScoredModel

CHECKPOINTS = "checkpoints"


class DropRule(Protocol):
    """Travels to the workers as it is; the first of them asks it, and tells the others."""

    @property
    def max_new_tokens(self) -> int:
        """That it wants to see of an answer."""
        ...

    def __call__(self, rows: Sequence[Row], said: Sequence[str]) -> Sequence[bool]:
        """Of each row, and what the model now says to its question, greedily: is it forgotten?"""
        ...


class Watch(Protocol):
    """Looks at the model at the ends of some steps. Travels to the workers as it is; each of them calls it, because
    with sharded weights all make the same forward passes."""

    @property
    def steps(self) -> Collection[int]:
        """After how many; 0: before the first."""
        ...

    @property
    def done(self) -> bool:
        """Whether all that it writes is there: the training has nothing else to leave behind."""
        ...

    def __call__(self, model: "ScoredModel", step: int) -> None: ...


@dataclass(frozen=True)
class Budget:
    """How far the model may come from its start: KL, in nats per token of these rows' answers."""

    kl: float
    every_steps: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Refusals:
    """`refuses` tells whether an answer does; `at_most`: the share of rows to keep that may be refused. Travels to the
    workers as it is."""

    refuses: Callable[[str], bool]
    at_most: float
    max_new_tokens: int


@dataclass(frozen=True)
class Validation:
    """What a step's model is chosen by: the facts of the forget rows, and rows to keep that are not trained on.

    `patience`: measurements without a better one after which training stops; None: it does not. `refusals`: facts and
    refusals are counted on answers.
    """

    every_steps: int
    patience: int | None
    forget: tuple[Row, ...]
    retain: tuple[Row, ...]
    refusals: Refusals | None = None


class Reporter(Protocol):
    """Told of every finished optimiser step: loss, its parts, rates."""

    def __call__(self, metrics: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Job:
    """All that training needs; travels to the workers as it is."""

    model: ModelSpec
    terms: tuple[Term, ...]
    forget: Sequence[Row]
    retain: Sequence[Row]
    refusals: tuple[str, ...]
    optim: OptimSpec
    seed: int
    pairing: str
    directory: Path  # of the run
    reference: ModelSpec | None = None  # None: the model itself, before the first step
    reinforced: ModelSpec | None = None  # the model, the forget set learned again, for Generic statistics
    anchor: Text = Pass.FORGET  # RETAIN when fine-tuning: an epoch is a pass over the retain rows
    watch: Watch | None = None  # what it sees is all that is wanted: no model is kept
    signal: Signal | None = None  # measured on the way, for whoever decides whether to go on
    shared_reference: Path | None = None  # folder of constants that trainings of one worker share; None: its own alone
    world: Sequence[Row] = ()  # general instructions
    neighbours: tuple[tuple[int, ...], ...] | None = None  # of each forget row, the retain rows it may meet; None: all
    drop: DropRule | None = None  # says which forget rows need no more training
    stop: StopSpec | None = None  # says when to end before the schedule does
    updates: Updates = "joint"  # otherwise one on the forget objective, then one on the rest
    forget_learning_rate: float | None = None  # of the former; None: that of `optim`
    sharpness: SharpnessSpec | None = None
    latent: LatentSpec | None = None
    projection: ProjectionSpec | None = None
    budget: Budget | None = None
    validation: Validation | None = None
    rectification: RectificationSpec | None = None  # with joint updates: they follow the forget objective alone
    stability: StabilitySpec | None = None  # with joint updates
    quantisation: QuantisationSpec | None = None
    tampering: TamperingSpec | None = None  # batches of some of the forget rows, to attack with the others
    undo: UndoSpec | None = None  # what the weights lose before the first step
    asked: tuple[Row, ...] = ()  # whose facts the trained model is asked for, before it is written

    @property
    def ascent(self) -> Ascent | None:
        return next((term.ascent for term in self.terms if isinstance(term, ForgetObjective)), None)

    @property
    def initial_noise(self) -> float:
        return next((term.initial_noise for term in self.terms if isinstance(term, ForgetObjective)), 0.0)

    @property
    def schedule(self) -> Schedule:
        of_retain = self.anchor.of == "retain"
        anchors = len(self.retain if of_retain else self.forget)
        optim = self.optim if self.ascent is None else self.ascent.optim(self.optim, anchors)
        counts = (anchors, len(self.retain), len(self.refusals))
        rest = (len(self.world), self.neighbours, of_retain)
        return Schedule(*counts, optim, self.seed, self.pairing, *rest)  # type: ignore[arg-type]
