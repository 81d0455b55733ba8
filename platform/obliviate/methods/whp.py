""" "Who's Harry Potter": what a model would say that had not read it (Eldan & Russinovich 2023, arXiv:2310.02238)."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Generic


class WHP(ForgetObjective):
    """The starting model learns the forget set once more; where that raised a token's logit, the token belongs to what
    is to be forgotten. The generic prediction takes `alpha` times the rise away, z - alpha relu(z_reinforced - z), and
    its likeliest token becomes the label: a fixed target, which reads well.

    The paper also translates names with a dictionary that another model writes; that part is left out here.
    """

    title: ClassVar = "Who's Harry Potter: learn what a model would say that had not learned the forget set"
    when: ClassVar = "Forgetting without refusals or gibberish, of books as of facts; pair it with gd"
    source: ClassVar = "arXiv:2310.02238"

    type: Literal["whp"] = "whp"
    alpha: float = Field(default=5.0, gt=0)

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: {Generic(self.alpha): Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over answer tokens of -log p(argmax of the generic prediction), nats."""
        forget = scores[Pass.FORGET]
        return Loss.mean(-forget.stats[Generic(self.alpha)], forget.answer_BT)
