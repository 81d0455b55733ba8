"""The other half of in-context knowledge unlearning (arXiv:2410.00382): to answer what the mark does not concern."""

from typing import ClassVar, Literal

from obliviate.methods.base import Loss, Needs, Pass, Positions, Regularizer, Scores
from obliviate.scoring import Stat


class Marked(Regularizer):
    """Cross-entropy of the retain set behind marks that name the forget rows' entities."""

    title: ClassVar = "Answer the retain questions although the prompt marks something else"
    when: ClassVar = "With icku, whose marks would otherwise silence everything"
    source: ClassVar = "arXiv:2410.00382"

    type: Literal["marked"] = "marked"

    @property
    def needs(self) -> Needs:
        return {Pass.RETAIN_MARKED: {Stat.LOGP: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over answer tokens of -log p, nats."""
        retain = scores[Pass.RETAIN_MARKED]
        return Loss.mean(-retain.logp_BT, retain.answer_BT)
