"""Forget rows turned away from each other: what circuit breakers lack against an attack along one direction
(EleutherAI's `unlearn`, orthogonal circuit breakers)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import Layer, Loss, Needs, Pass, Scores, mask_BT
from obliviate.methods.steered import OfSteered
from obliviate.scoring import TokenScores

if TYPE_CHECKING:
    from torch import Tensor


class Orthogonal(OfSteered):
    """Rerouted states that all point the same way are found again by one direction. A row's state is the mean over its
    tokens; two rows' states shall have no positive cosine.

    After the published code, which takes all pairs of a batch: here each row meets one other forget row, drawn anew in
    every epoch, so that the mean is the same however a batch is cut. That code also multiplies by the mean number of
    tokens, which a weight does as well.
    """

    title: ClassVar = "Orthogonal circuit breakers: forget rows' hidden states turned away from each other"
    when: ClassVar = "Beside circuit_breakers, against attacks along one direction; costs a second forget text"
    source: ClassVar = "https://github.com/EleutherAI/unlearn"

    type: Literal["orthogonal"] = "orthogonal"
    weight: float = Field(default=10.0, ge=0)

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: self._stats, Pass.FORGET_OTHER: self._stats}

    def loss(self, scores: Scores) -> Loss:
        """Mean over pairs of texts and layers of relu(cos(state, other state))."""
        import torch
        import torch.nn.functional as F

        one, other = scores[Pass.FORGET], scores[Pass.FORGET_OTHER]
        cosines = [
            F.cosine_similarity(self._state_BD(one, layer), self._state_BD(other, layer), dim=-1)
            for layer in self._layers
        ]
        return Loss.mean(torch.stack(cosines).relu().mean(0))

    def _state_BD(self, scores: TokenScores, layer: Layer) -> "Tensor":
        mask_BT1 = mask_BT(scores, self.positions)[..., None]
        return (scores.activation_BTD(layer) * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)
