"""KL divergence to the starting model on the retain set (Maini et al. 2024, arXiv:2401.06121, section 4)."""

from typing import ClassVar, Literal

from obliviate.methods.base import Loss, Needs, Pass, Positions, Regularizer, Scores, mask_BT
from obliviate.scoring import Stat


class KL(Regularizer):
    """KL(P_ref || P). The published code averages over padding as well (`positions: padded`); the default does not.

    The reference's final hidden states of the texts that will be visited are computed once; with its output layer they
    stand for its distributions, so no second model is held.
    """

    title: ClassVar = "KL to the starting model on the retain set"
    when: ClassVar = "Keeps behaviour rather than labels: for models whose own answers differ from the data's"
    source: ClassVar = "arXiv:2401.06121, section 4"

    type: Literal["kl"] = "kl"
    positions: Positions = Positions.SEQUENCE

    @property
    def needs(self) -> Needs:
        return {Pass.RETAIN: {Stat.REFERENCE_KL: self.positions}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over the tokens at `positions`, nats."""
        retain = scores[Pass.RETAIN]
        return Loss.mean(retain.stats[Stat.REFERENCE_KL], mask_BT(retain, self.positions))
