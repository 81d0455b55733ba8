"""Maximising entropy ("A Closer Look at Machine Unlearning for LLMs", arXiv:2410.08109, section 3.1)."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores, mask_BT
from obliviate.scoring import Stat


class ME(ForgetObjective):
    """Every predicted token is drawn towards the uniform distribution U over the vocabulary.

    The paper writes KL(P || U) = log V - H(P); its code computes KL(U || P), which weighs tokens of vanishing
    probability far more. The published figures rest on the code's direction, so it is the default.
    The code also averages over the padding up to 500 tokens (`positions: padded`); the default leaves padding out.
    An unpadded mean weighs each real token 5 to 8 times more at the same `weight`. The code adds 1e-12 to every
    probability before its logarithm, and this does not: SmolLM2-135M gives half of its vocabulary less than that over
    padding, where the code computes 15.1 nats and the definition 16.8 (8.6 and 8.7 over a question and its answer).
    """

    title: ClassVar = "Maximum entropy: make the model guess uniformly on the forget set"
    when: ClassVar = "Untargeted unlearning; pair it with gd (ME+GD)"
    source: ClassVar = "arXiv:2410.08109, section 3.1"

    type: Literal["me"] = "me"
    weight: float = Field(default=0.1, ge=0)  # published: 0.1 (TOFU), 0.5 (real world)
    direction: Literal["uniform_to_model", "model_to_uniform"] = "uniform_to_model"  # KL(U||P), or the paper's KL(P||U)
    positions: Positions = Positions.SEQUENCE

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: {self._stat: self.positions}}

    @property
    def _stat(self) -> Stat:
        return Stat.UNIFORM_KL if self.direction == "uniform_to_model" else Stat.ENTROPY

    def loss(self, scores: Scores) -> Loss:
        """Mean over the tokens at `positions`, nats. For KL(P||U) the constant log V is left out: it is -H(P)."""
        forget = scores[Pass.FORGET]
        value_BT = forget.stats[self._stat]
        return Loss.mean(value_BT if self._stat is Stat.UNIFORM_KL else -value_BT, mask_BT(forget, self.positions))
