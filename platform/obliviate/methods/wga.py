"""Weighted gradient ascent (Wang et al. 2025, arXiv:2502.19301)."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Stat


class WGA(ForgetObjective):
    """A token's gradient is that of p^beta / beta: with beta 1 the probability itself is lowered, and a token that is
    gone pulls no more, where gradient ascent pulls ever harder."""

    title: ClassVar = "Weighted gradient ascent: each token weighed by its own probability"
    when: ClassVar = "Gradient ascent that leaves forgotten tokens alone; pair it with gd"
    source: ClassVar = "arXiv:2502.19301"

    type: Literal["wga"] = "wga"
    beta: float = Field(default=1.0, ge=0)  # 0 is gradient ascent

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: {Stat.LOGP: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over answer tokens of p^beta log p, nats; no gradient through the weight p^beta."""
        forget = scores[Pass.FORGET]
        weight_BT = (self.beta * forget.logp_BT.detach()).exp()
        return Loss.mean(weight_BT * forget.logp_BT, forget.answer_BT)
