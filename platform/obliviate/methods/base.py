"""What a method is: the forward passes it needs, and a pure loss of their scores.

Shapes: B texts, T tokens. Every mean states its denominator: a Loss carries a sum and a count, and the training
loop divides by the count of the whole step, so that workers and micro-batches never change the result.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from obliviate.schema import Spec
from obliviate.scoring import Stat, TokenScores


class Pass(StrEnum):
    """A forward pass over one kind of text. REFERENCE_* are the starting model's, computed once and kept."""

    FORGET = "forget"  # (x_f, y_f)
    FORGET_IDK = "forget_idk"  # (x_f, a refusal)
    FORGET_MISMATCH = "forget_mismatch"  # (x_f, the answer of a random retain item)
    RETAIN = "retain"  # (x_r, y_r)
    RETAIN_IDK = "retain_idk"  # (x_r, a refusal)
    REFERENCE_FORGET = "reference_forget"
    REFERENCE_FORGET_IDK = "reference_forget_idk"

    @property
    def of_reference(self) -> bool:
        return self.value.startswith("reference_")

    @property
    def text(self) -> "Pass":
        """The pass of the trained model over the same text."""
        return Pass(self.value.removeprefix("reference_"))


class Positions(StrEnum):
    """Which tokens of a text a statistic is wanted for."""

    ANSWER = "answer"  # the answer and its end-of-turn token
    SEQUENCE = "sequence"  # the prompt too
    PADDED = "padded"  # prompt, answer and padding up to model.max_length, as the code of "A Closer Look" does for ME


Needs = Mapping[Pass, Mapping[Stat, Positions]]
Scores = Mapping[Pass, TokenScores]


@dataclass(frozen=True)
class Loss:
    """A sum and what it is a sum over (texts or tokens)."""

    sum: Tensor
    count: Tensor

    @classmethod
    def mean(cls, values: Tensor, mask: Tensor | None = None) -> "Loss":
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
    weight: float = Field(1.0, ge=0)

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """The passes to run, and of each the statistics and where they are wanted."""

    @abstractmethod
    def loss(self, scores: Scores) -> Loss:
        """Pure: scores in, a sum and its count out. The count must depend on the masks alone."""


class ForgetObjective(Term):
    """Pushes the forget set out."""


class Regularizer(Term):
    """Keeps the rest in."""
