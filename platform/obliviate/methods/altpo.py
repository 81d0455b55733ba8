"""Alternate preference optimisation (Mekala et al. 2024, arXiv:2409.13474)."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.methods.dpo import preference
from obliviate.scoring import Stat


class AltPO(ForgetObjective):
    """The forget rows' `alternatives` are other plausible answers; where rows bring none, they are sampled from the
    model itself before training, as published: five at temperature 1. An epoch draws one of them for each row;
    published code goes through all five.
    """

    title: ClassVar = "AltPO: prefer an alternative answer of the model's own to the true answer"
    when: ClassVar = "Forgetting without refusals or gibberish; pair it with gd"
    source: ClassVar = "arXiv:2409.13474"

    type: Literal["altpo"] = "altpo"
    beta: float = Field(default=0.1, gt=0)  # 1/nats; published: 0.05 to 0.5

    @property
    def needs(self) -> Needs:
        texts = (Pass.FORGET, Pass.FORGET_ALTERNATIVE)
        references = (Pass.REFERENCE_FORGET, Pass.REFERENCE_FORGET_ALTERNATIVE)
        return {each: {Stat.LOGP: Positions.ANSWER} for each in (*texts, *references)}

    def loss(self, scores: Scores) -> Loss:
        """Mean over texts of -(2/beta) log sigmoid(beta [log(p/p_ref)(alternative) - log(p/p_ref)(true answer)])."""
        return preference(scores, Pass.FORGET_ALTERNATIVE, Pass.REFERENCE_FORGET_ALTERNATIVE, self.beta)
