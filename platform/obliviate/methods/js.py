"""JensUn's retain term: the Jensen-Shannon divergence to the starting model (Singh et al. 2025, arXiv:2509.02820)."""

from typing import ClassVar, Literal

from obliviate.methods.base import Loss, Needs, Pass, Positions, Regularizer, Scores, mask_BT
from obliviate.scoring import Stat


class JS(Regularizer):
    title: ClassVar = "Jensen-Shannon divergence to the starting model on the retain set"
    when: ClassVar = "A bounded kl; with jensun"
    source: ClassVar = "arXiv:2509.02820"

    type: Literal["js"] = "js"
    positions: Positions = Positions.ANSWER

    @property
    def needs(self) -> Needs:
        return {Pass.RETAIN: {Stat.REFERENCE_JS: self.positions}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over the tokens at `positions`, nats, at most log 2."""
        retain = scores[Pass.RETAIN]
        return Loss.mean(retain.stats[Stat.REFERENCE_JS], mask_BT(retain, self.positions))
