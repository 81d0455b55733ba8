"""Inverted hinge loss (LoKU; Cha et al. 2025, arXiv:2408.06621, section 3.2)."""

from typing import ClassVar, Literal

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Stat


class IHL(ForgetObjective):
    """Gradient ascent lowers the true token by raising all others a little; here the likeliest of the others alone
    takes its place, and a token that has lost it pulls no more. Published with low-rank adapters."""

    title: ClassVar = "Inverted hinge: let the runner-up take the true token's place"
    when: ClassVar = "With LoRA, where gradient ascent needs many steps; pair it with gd"
    source: ClassVar = "arXiv:2408.06621, section 3.2"

    type: Literal["ihl"] = "ihl"

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: {Stat.LOGP: Positions.ANSWER, Stat.RIVAL: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over answer tokens of 1 + p(y) - max over v other than y of p(v), between 0 and 2."""
        forget = scores[Pass.FORGET]
        return Loss.mean(1 + forget.logp_BT.exp() - forget.stats[Stat.RIVAL].exp(), forget.answer_BT)
