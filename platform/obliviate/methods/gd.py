"""Gradient descent on the retain set (GradDiff; Liu et al. 2022, arXiv:2203.12817; Maini et al. 2024)."""

from typing import ClassVar, Literal

from obliviate.methods.base import Loss, Needs, Pass, Positions, Regularizer, Scores
from obliviate.scoring import Stat


class GD(Regularizer):
    title: ClassVar = "Gradient descent: cross-entropy of the retain set"
    when: ClassVar = "The usual companion of every forget objective"
    source: ClassVar = "arXiv:2401.06121, section 4"

    type: Literal["gd"] = "gd"

    @property
    def needs(self) -> Needs:
        return {Pass.RETAIN: {Stat.LOGP: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over answer tokens of -log p, nats."""
        retain = scores[Pass.RETAIN]
        return Loss.mean(-retain.logp_BT, retain.answer_BT)
