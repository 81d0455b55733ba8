""" "I don't know" tuning: cross-entropy of a refusal to the forget question (Maini et al. 2024, arXiv:2401.06121)."""

from typing import ClassVar, Literal

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Stat


class IDK(ForgetObjective):
    title: ClassVar = "Refusal tuning: answer the forget questions with a refusal"
    when: ClassVar = "Targeted unlearning; pair it with ap, which keeps it from refusing everything"
    source: ClassVar = "arXiv:2401.06121, section 4; IDK+AP: arXiv:2410.08109"

    type: Literal["idk"] = "idk"

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET_IDK: {Stat.LOGP: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over the refusals' tokens of -log p, nats."""
        refusal = scores[Pass.FORGET_IDK]
        return Loss.mean(-refusal.logp_BT, refusal.answer_BT)
