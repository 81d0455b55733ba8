"""In-context knowledge unlearning (Takashiro et al. 2025, arXiv:2410.00382): to not know what the prompt marks."""

from typing import ClassVar, Literal

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Stat


class ICKU(ForgetObjective):
    """Questions about a row's `entity`, behind a mark that names it, are answered with a refusal. The forget rows need
    the key `entity`. Served or measured, the model takes its marks from `model.guardrail`.

    Nothing is removed from the weights: without the mark the model answers, and the answer can be read from its inner
    layers up to the last ones. All figures of such a model say so.
    """

    title: ClassVar = "In-context knowledge unlearning: refuse what the prompt marks (not removed from the weights)"
    when: ClassVar = "Who may know what differs from request to request; short form icku = icku+marked"
    source: ClassVar = "arXiv:2410.00382"
    hides: ClassVar = True

    type: Literal["icku"] = "icku"

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET_MARKED_IDK: {Stat.LOGP: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over the refusals' tokens of -log p, nats."""
        refusal = scores[Pass.FORGET_MARKED_IDK]
        return Loss.mean(-refusal.logp_BT, refusal.answer_BT)
