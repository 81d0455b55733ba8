"""What lowers the forget set's log-probability, by whatever way."""

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Stat


class OfLikelihood(ForgetObjective):
    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: {Stat.LOGP: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over answer tokens of log p, nats: the minus of the cross-entropy."""
        forget = scores[Pass.FORGET]
        return Loss.mean(forget.logp_BT, forget.answer_BT)
