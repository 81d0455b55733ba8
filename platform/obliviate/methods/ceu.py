"""CE-U: cross-entropy unlearning (Yang 2025, arXiv:2503.01224)."""

from math import inf
from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Distilled


class CEU(ForgetObjective):
    title: ClassVar = "CE-U: imitate the model's own distribution without the true token"
    when: ClassVar = "Forget set alone, with neither a reference nor a retain term: its pull fades as the tokens go"
    source: ClassVar = "arXiv:2503.01224"

    type: Literal["ceu"] = "ceu"
    skip: int = Field(default=1, ge=0)  # tokens at the beginning of each answer, which most answers share

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: {self._stat: Positions.ANSWER}}

    @property
    def _stat(self) -> Distilled:
        return Distilled("self", inf)

    def loss(self, scores: Scores) -> Loss:
        """Mean over the answer's tokens, but the first `skip`, of CE(softmax(sg z with z_y = -inf), softmax(z)), nats.

        sg stops the gradient: the target moves with the model, but is not trained.
        """
        forget = scores[Pass.FORGET]
        late_BT = forget.answer_BT & (forget.answer_BT.cumsum(-1) > self.skip)
        return Loss.mean(forget.stats[self._stat], late_BT)
