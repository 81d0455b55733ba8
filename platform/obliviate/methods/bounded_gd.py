"""The retain loss as a constraint (primal-dual unlearning; Entesari et al. 2025, arXiv:2506.05314)."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import Loss, Needs, Pass, Positions, Regularizer, Scores
from obliviate.scoring import Stat


class BoundedGD(Regularizer):
    """Its weight is the dual variable lambda of "cross-entropy of the retain set <= epsilon": it begins at `weight`,
    rises while the constraint is violated and falls, never below 0, while it holds.

    Lambda moves once an optimiser step, by the mean over the global batch, and is the same on every worker; published
    code moves it with every micro-batch, on each worker by itself: at the same `step` it moves more often.
    """

    title: ClassVar = "Gradient descent on the retain set, only as hard as a bound on its loss demands"
    when: ClassVar = "With pdu, or instead of gd when its weight is hard to choose"
    source: ClassVar = "arXiv:2506.05314"

    type: Literal["bounded_gd"] = "bounded_gd"
    weight: float = Field(default=100.0, ge=0)  # lambda at the start; published: 100 (TOFU), 50 (MUSE)
    epsilon: float = Field(default=0.3, ge=0)  # nats per token; published: 0.3 (TOFU), 0.1 to 1.5 (MUSE)
    step: float = Field(default=5.0, ge=0)  # lambda per nat and optimiser step; published: 5 (TOFU), 1 (MUSE)
    # Share of the run with a constant lambda; published: 5 of 10 epochs (TOFU)
    warmup: float = Field(default=0.5, ge=0, le=1)

    @property
    def needs(self) -> Needs:
        return {Pass.RETAIN: {Stat.LOGP: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over answer tokens of -log p, less epsilon, nats: how far the constraint is violated."""
        retain = scores[Pass.RETAIN]
        return Loss.mean(-retain.logp_BT - self.epsilon, retain.answer_BT)

    def next_weight(self, weight: float, value: float, done: float) -> float:
        """max(0, lambda + step * violation), after the warm-up."""
        return weight if done < self.warmup else max(0.0, weight + self.step * value)
