"""Margin self-correction (MASC; Shevchenko, Di Gennaro et al. 2026, arXiv:2606.02920, after its abstract)."""

from typing import ClassVar, Literal

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Stat


class MASC(ForgetObjective):
    """The true token's logit falls until another token is as likely, and no further: a token whose margin is not
    positive pulls no more, so that the objective ends by itself. The other half of the method, its stopping rule, goes
    with any objective: `stop`.
    """

    title: ClassVar = "MASC: lower the true token's logit until another is as likely, and no further"
    when: ClassVar = "Bounded token by token; with stop={} training ends once margins are gone, without validation"
    source: ClassVar = "arXiv:2606.02920"

    type: Literal["masc"] = "masc"

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: {Stat.LOGP: Positions.ANSWER, Stat.RIVAL: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over answer tokens of max(0, z_y - max of z_v over v other than y), nats."""
        forget = scores[Pass.FORGET]
        return Loss.mean((forget.logp_BT - forget.stats[Stat.RIVAL]).relu(), forget.answer_BT)
