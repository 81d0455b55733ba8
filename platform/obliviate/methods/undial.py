"""UNDIAL: self-distillation from adjusted logits (Dong et al. 2024, arXiv:2402.10052)."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Distilled


class UNDIAL(ForgetObjective):
    """The teacher is the starting model with the true token's logit lowered by beta: a fixed, bounded target.

    Published code averages over every position of the padded batch, and where there is no label lowers the logit of an
    unrelated token; here the mean is over the answer's tokens alone.
    """

    title: ClassVar = "UNDIAL: imitate the starting model with the true tokens' logits lowered"
    when: ClassVar = "Stable without a retain term; published with LoRA of rank 8 and learning rate 1e-4"
    source: ClassVar = "arXiv:2402.10052"

    type: Literal["undial"] = "undial"
    beta: float = Field(default=10.0, gt=0)  # nats

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: {self._stat: Positions.ANSWER}}

    @property
    def _stat(self) -> Distilled:
        return Distilled("reference", self.beta)

    def loss(self, scores: Scores) -> Loss:
        """Mean over answer tokens of CE(softmax(z_ref - beta onehot(y)), softmax(z)), nats."""
        forget = scores[Pass.FORGET]
        return Loss.mean(forget.stats[self._stat], forget.answer_BT)
