"""SimNPO: negative preference optimisation without a reference (Fan et al. 2024, arXiv:2410.07163)."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Stat


class SimNPO(ForgetObjective):
    """The paper writes its margin outside beta's product: its gamma is `beta * delta` here, as in its code."""

    title: ClassVar = "SimNPO: NPO of the answer's mean log-probability, without a reference model"
    when: ClassVar = "Cheaper than npo, and fairer to answers of different lengths; pair it with gd"
    source: ClassVar = "arXiv:2410.07163"

    type: Literal["simnpo"] = "simnpo"
    weight: float = Field(default=0.125, ge=0)  # published for TOFU forget10; 0.1375 with beta 2.5 for forget05
    beta: float = Field(default=4.5, gt=0)  # tokens per nat
    delta: float = Field(default=0.0, ge=0)  # nats per token: a loss above which the pressure fades

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: {Stat.LOGP: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over texts of -(2/beta) log sigmoid(beta (-log p / answer tokens - delta))."""
        import torch.nn.functional as F

        forget = scores[Pass.FORGET]
        nll_B = -forget.logp_B / forget.tokens_B.clamp(min=1)  # nats per token
        return Loss.mean(-2 / self.beta * F.logsigmoid(self.beta * (nll_B - self.delta)))
