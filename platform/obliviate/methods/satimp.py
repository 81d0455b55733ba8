"""SatImp: saturation and importance as token weights (Yang et al. 2025, arXiv:2505.11953)."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Stat


class SatImp(ForgetObjective):
    """Published code weighs forgetting by 0.1 and retaining by 1 in its configuration files, and the reverse in its
    defaults and instructions. Ours are the configuration files'."""

    title: ClassVar = "SatImp: gradient ascent weighed towards tokens neither forgotten yet nor certain"
    when: ClassVar = "A smoother wga; pair it with gd"
    source: ClassVar = "arXiv:2505.11953"

    type: Literal["satimp"] = "satimp"
    weight: float = Field(default=0.1, ge=0)
    beta1: float = Field(default=5.0, ge=0)  # saturation: passes by what is forgotten already
    beta2: float = Field(default=1.0, ge=0)  # importance: passes by what the model is certain of

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: {Stat.LOGP: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over answer tokens of p^beta1 (1 - p)^beta2 log p, nats; no gradient through the weight."""
        forget = scores[Pass.FORGET]
        logp_BT = forget.logp_BT.detach()
        weight_BT = (self.beta1 * logp_BT).exp() * (-logp_BT.expm1()) ** self.beta2
        return Loss.mean(weight_BT * forget.logp_BT, forget.answer_BT)
