"""Hidden states of several layers held near the starting model's: the retain side of circuit breakers (Zou et al. 2024,
arXiv:2406.04313, algorithm 1)."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import Loss, Needs, Pass, Scores, mask_BT
from obliviate.methods.steered import OfSteered


class Representations(OfSteered):
    """`activations` takes one layer's squared distance; here it is the distance, of any number of layers.

    `relative` divides each token's by the length of the starting model's state, as arXiv:2605.11685 holds its models
    (its code by the mean length over a batch).
    """

    title: ClassVar = "Hold several layers' hidden states on the retain set near the starting model's, by distance"
    when: ClassVar = "The companion of circuit_breakers, and of mlp_breaking; by itself no weight grows: ramp=[1, 1]"
    source: ClassVar = "arXiv:2406.04313, algorithm 1"

    type: Literal["representations"] = "representations"
    weight: float = Field(default=2.0, ge=0)
    relative: bool = False

    @property
    def needs(self) -> Needs:
        return {Pass.RETAIN: self._stats, Pass.REFERENCE_RETAIN: self._stats}

    def loss(self, scores: Scores) -> Loss:
        """Mean over tokens and layers of ||h - h_ref||, or of ||h - h_ref|| / ||h_ref||."""
        import torch

        retain, reference = scores[Pass.RETAIN], scores[Pass.REFERENCE_RETAIN]
        distances = []
        for layer in self._layers:
            kept_BTD = reference.activation_BTD(layer)
            # vector_norm's gradient where nothing has moved is 0, and not NaN.
            distance_BT = torch.linalg.vector_norm(retain.activation_BTD(layer) - kept_BTD, dim=-1)
            distances.append(distance_BT / kept_BTD.norm(dim=-1).clamp(min=1e-12) if self.relative else distance_BT)
        return Loss.mean(torch.stack(distances).mean(0), mask_BT(retain, self.positions))
