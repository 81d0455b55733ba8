"""Random disassociation: answers of other forget rows (SKU; Liu et al. 2024, arXiv:2402.10058, section 3.2)."""

from typing import ClassVar, Literal

from obliviate.methods.base import Loss, Needs, Pass, Positions, Regularizer, Scores
from obliviate.scoring import Stat


class Disassociation(Regularizer):
    """Published code trains on five other answers of each question at once; here an epoch draws one of all of them."""

    title: ClassVar = "Random disassociation: answer the forget questions with other forget rows' answers"
    when: ClassVar = "The second of SKU's three terms (sku = task_vector+disassociation+divergence)"
    source: ClassVar = "arXiv:2402.10058, section 3.2"

    type: Literal["disassociation"] = "disassociation"

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET_SHUFFLED: {Stat.LOGP: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over the borrowed answers' tokens of -log p, nats."""
        shuffled = scores[Pass.FORGET_SHUFFLED]
        return Loss.mean(-shuffled.logp_BT, shuffled.answer_BT)
