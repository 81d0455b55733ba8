"""What a method is: the forward passes it needs, and a pure loss of their scores.

Shapes: B texts, T tokens. Every mean states its denominator: a Loss carries a sum and a count, and the training
loop divides by the count of the whole step, so that workers and micro-batches never change the result.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field

from obliviate.methods.texts import Pass as Pass
from obliviate.methods.texts import Text
from obliviate.schema import Layer as Layer
from obliviate.schema import OptimSpec, Spec
from obliviate.scoring import Activation, AnyStat, TokenScores, needs_reference

if TYPE_CHECKING:
    from torch import Tensor

Factor = Annotated[float, Field(ge=0)]
Ramp = tuple[Factor, Factor]  # what a weight is multiplied by at the beginning of a run and at its end


class Positions(StrEnum):
    """Which tokens of a text a statistic is wanted for."""

    ANSWER = "answer"  # the answer and its end-of-turn token
    SEQUENCE = "sequence"  # the prompt too
    PADDED = "padded"  # prompt, answer and padding up to model.max_length, as the code of "A Closer Look" does for ME


Needs = Mapping[Text, Mapping[AnyStat, Positions]]
Scores = Mapping[Text, TokenScores]


def compares(needs: Needs) -> bool:
    """Whether any of it is the reference model's, or compares with it."""
    return any(each.of_reference or any(map(needs_reference, stats)) for each, stats in needs.items())


def states(layers: Iterable[Layer], positions: Positions, without: int = 0) -> dict[AnyStat, Positions]:
    """The hidden states of these layers, without so many leading components, as a pass's statistics."""
    return {Activation(layer, without): positions for layer in layers}


def mask_BT(scores: TokenScores, positions: Positions) -> "Tensor":
    """Where to average: the answer, or all that was scored (padding was only where `positions` asked for it)."""
    return scores.answer_BT if positions is Positions.ANSWER else scores.sequence_BT


@dataclass(frozen=True)
class Loss:
    """A sum and what it is a sum over (texts or tokens)."""

    sum: "Tensor"
    count: "Tensor"

    @classmethod
    def mean(cls, values: "Tensor", mask: "Tensor | None" = None) -> "Loss":
        """The mean over all values, or over those that `mask` marks."""
        if mask is None:
            return cls(values.sum(), values.new_tensor(values.numel()))
        return cls((values * mask).sum(), mask.sum().to(values.dtype))


class Term(Spec, ABC):
    """One weighted term of the objective. `title` and `when` are what `obliviate methods` prints."""

    title: ClassVar[str]
    when: ClassVar[str]
    source: ClassVar[str]

    type: str
    weight: float = Field(default=1.0, ge=0)

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """The passes to run, and of each the statistics and where they are wanted."""

    @abstractmethod
    def loss(self, scores: Scores) -> Loss:
        """Pure: scores in, a sum and its count out. The count must depend on the masks alone."""

    def seeded(self, seed: int) -> Self:
        """The term that the loop will use, told the run's seed: a term that draws something at random keeps it."""
        return self

    def scheduled(self, done: float) -> float:
        """What the weight is multiplied by at a step that begins when the share `done` of the run's steps is done."""
        return 1.0

    def next_weight(self, weight: float, value: float, done: float) -> float:
        """The weight of the next step, after one with `weight` that began when the share `done` of the run's steps was
        done, and whose mean loss, over all workers, was `value`. A constant, but for a dual variable; the loop holds it
        and its checkpoints keep it."""
        return weight


def along(ramp: Ramp, done: float) -> float:
    """Where a ramp is when the share `done` of it is done: a straight line."""
    first, last = ramp
    return first + (last - first) * done


@dataclass(frozen=True)
class Negation:
    """`scale` times the change of the weights is subtracted from the original ones once training is done.

    It is learned at the run's rate and, each time anew, at `learning_rates`. A method's fields of these names have no
    part in its training: runs that differ in them share it.
    """

    scale: float
    learning_rates: tuple[float, ...] = ()


@dataclass(frozen=True)
class Ascent:
    """Training without an optimiser: `steps` steps, each `length` times a direction that a look at the whole forget set
    gives. Of `optim` it takes what says how a pass is computed, not how weights are updated."""

    length: float
    steps: int

    def optim(self, given: OptimSpec, rows: int) -> OptimSpec:
        """The schedule of these steps, over that many forget rows."""
        own = {"learning_rate": self.length, "epochs": self.steps, "batch_size": rows, "warmup_steps": 0}
        return given.model_copy(update={**own, "schedule": "constant"})


@dataclass(frozen=True)
class Selection(Ascent):
    """Along one gradient for all steps: that of the starting model, its `rank` strongest directions weakened. An
    adapter is trained on the forget set first, at the rate `adversary`, and is there while the gradient is taken."""

    rank: int
    adversary: float


@dataclass(frozen=True)
class Curvature(Ascent):
    """Along the present gradient, divided by the curvature that `texts` retain rows give each layer of the starting
    model; `damping`, relative to the mean curvature, is added to it."""

    damping: float
    texts: int


@dataclass(frozen=True)
class Redirection(Ascent):
    """One step, in closed form: `length` times what moves the layer's hidden states from those of forget prompts to
    those of `prompts`, and holds those of `texts` retain rows' prompts (None: all)."""

    layer: Layer
    ridge: float
    prompts: tuple[str, ...]
    texts: int | None


class ForgetObjective(Term):
    """Pushes the forget set out. `trainable`, a regular expression, restricts training to the parameters whose names
    it is found in: "layers\\.(5|6|7)\\.mlp\\.down_proj"."""

    hides: ClassVar[bool] = False  # teaches not to tell what a mark names: figures, cards and servers say so of a model

    trainable: re.Pattern[str] | None = None

    @property
    def negation(self) -> Negation | None:
        """How what training learns is turned round; None where it forgets."""
        return None

    @property
    def initial_noise(self) -> float:
        """Standard deviation of what is added to the weights before the first step."""
        return 0.0

    @property
    def ascent(self) -> Ascent | None:
        """How the weights move where no optimiser moves them."""
        return None

    @property
    def steered(self) -> tuple[Layer, ...]:
        """The layers whose hidden states it moves, which regularizers may hold; none of a method of probabilities."""
        return ()


class Regularizer(Term):
    """Keeps the rest in."""

    def beside(self, forget: ForgetObjective) -> Self:
        """The regularizer as it is beside this forget objective: one that takes a value from it does so here.

        Raises ValueError where the objective has no such value, or is none that it goes with.
        """
        return self


class ParameterTerm(Term, ABC):
    """Of the weights themselves. It needs no pass: the loop hands it every trained parameter, in float32, beside its
    value before the first step.

    Either the penalty is a sum over weights (`of_parts`): each worker hands over its part of a parameter, as one row.
    Or it is a mean over random directions, drawn anew for each parameter at each step: each worker hands over the whole
    parameter, and computes the share of its part of the directions. The shares add up to the same value and gradient on
    any number of workers.
    """

    of_parts: ClassVar[bool] = False

    @property
    def needs(self) -> Needs:
        return {}

    def loss(self, scores: Scores) -> Loss:
        raise TypeError(f"{self.type} looks at weights and not at scores: call penalty")

    @abstractmethod
    def penalty(self, initial_ND: "Tensor", weight_ND: "Tensor", directions_KD: "Tensor") -> "Tensor":
        """The share of `directions_KD`, unit vectors and some of all `directions`, in the penalty of one parameter; of
        a sum over weights, which has none, that of a part of it.

        N rows of D numbers: a vector is one row.
        """


class ParameterRegularizer(ParameterTerm, Regularizer):
    """Holds the weights themselves near what they were."""

    directions: int = Field(default=100, ge=1)
