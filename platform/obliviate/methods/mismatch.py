"""Random mismatch: answers of other items to the forget questions (LLMU; Yao et al. 2023, arXiv:2310.10683, eq. 3)."""

from typing import ClassVar, Literal

from obliviate.methods.base import Loss, Needs, Pass, Positions, Regularizer, Scores
from obliviate.scoring import Stat


class Mismatch(Regularizer):
    title: ClassVar = "Random mismatch: answer the forget questions with other items' answers"
    when: ClassVar = "The second of LLMU's three terms (llmu = ga+mismatch+kl)"
    source: ClassVar = "arXiv:2310.10683, eq. 3"

    type: Literal["mismatch"] = "mismatch"

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET_MISMATCH: {Stat.LOGP: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over the borrowed answers' tokens of -log p, nats."""
        mismatch = scores[Pass.FORGET_MISMATCH]
        return Loss.mean(-mismatch.logp_BT, mismatch.answer_BT)
