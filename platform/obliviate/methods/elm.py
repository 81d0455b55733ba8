"""Erasure of language memory (ELM; Gandikota et al. 2024, arXiv:2410.02760), after its code."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Steered


class ELM(ForgetObjective):
    """The model classifies for itself: what it would write behind a novice's prompt, rather than behind an expert's, is
    what one says who does not know. The target is the starting model's distribution, steered that far:
    P_ref(y) (P_ref(y | novice) / P_ref(y | expert))^eta, normalised.

    Its retain side is `kl`. Published with adapters of rank 4 in early layers, a target cut to its likeliest tokens as
    an option, and a third term for fluent text about what was erased, which is not here. The prompts should name the
    subject. A plain text gets the prompt as its question.
    """

    title: ClassVar = "ELM: imitate the starting model as it would write for a novice, against an expert"
    when: ClassVar = "A concept rather than facts; prompts that name it; short form elm = elm+kl"
    source: ClassVar = "arXiv:2410.02760"

    type: Literal["elm"] = "elm"
    novice: str = Field(default="The following is written by a novice who knows nothing of the subject.", min_length=1)
    expert: str = Field(default="The following is written by an expert who knows all of the subject.", min_length=1)
    eta: float = Field(default=1000.0, gt=0)

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: {self._stat: Positions.ANSWER}}

    @property
    def _stat(self) -> Steered:
        return Steered(self.novice, self.expert, self.eta)

    def loss(self, scores: Scores) -> Loss:
        """Mean over answer tokens of CE(softmax(z_ref + eta (z_novice - z_expert)), softmax(z)), nats."""
        forget = scores[Pass.FORGET]
        return Loss.mean(forget.stats[self._stat], forget.answer_BT)
