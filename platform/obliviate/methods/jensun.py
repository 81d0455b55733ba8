"""JensUn's forget term: the Jensen-Shannon divergence to a refusal (Singh et al. 2025, arXiv:2509.02820)."""

from math import log
from typing import ClassVar, Literal

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Stat


class JensUn(ForgetObjective):
    """To a distribution that is certain of token y the divergence depends on p = P(y) alone:
    (2 log 2 + p log p - (1 + p) log(1 + p)) / 2, between 0 and log 2. So no token can pull without end.

    The refusal is read after its own beginning, as it is generated. Published code puts the tokens of "No idea", again
    and again, where the forget answer's tokens are read.
    """

    title: ClassVar = "JensUn: draw the forget questions to a refusal by a bounded divergence"
    when: ClassVar = "Long trainings that must not collapse; short form jensun = jensun+js"
    source: ClassVar = "arXiv:2509.02820"

    type: Literal["jensun"] = "jensun"

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET_IDK: {Stat.LOGP: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over the refusals' tokens, nats."""
        refusal = scores[Pass.FORGET_IDK]
        p_BT = refusal.logp_BT.exp()
        divergence_BT = (2 * log(2) + p_BT * refusal.logp_BT - (1 + p_BT) * p_BT.log1p()) / 2
        return Loss.mean(divergence_BT, refusal.answer_BT)
