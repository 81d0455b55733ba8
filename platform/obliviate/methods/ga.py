"""Gradient ascent: minus the cross-entropy of the forget set (Jang et al. 2023, arXiv:2210.01504, eq. 2)."""

from typing import ClassVar, Literal

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Stat


class GA(ForgetObjective):
    title: ClassVar = "Gradient ascent: raise the loss of the forget set"
    when: ClassVar = "The simplest baseline. Unbounded: it collapses the model when it runs for long"
    source: ClassVar = "arXiv:2210.01504, eq. 2"

    type: Literal["ga"] = "ga"

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: {Stat.LOGP: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over answer tokens of log p, nats: the minus of the cross-entropy."""
        forget = scores[Pass.FORGET]
        return Loss.mean(forget.logp_BT, forget.answer_BT)
