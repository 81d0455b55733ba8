"""Hidden states held near the starting model's (RMU's retain term; Li et al. 2024, arXiv:2403.03218, section 4)."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import Loss, Needs, Pass, Positions, Regularizer, Scores, mask_BT
from obliviate.methods.rmu import squared_distance_B
from obliviate.scoring import Activation


class Activations(Regularizer):
    title: ClassVar = "Hold one layer's hidden states on the retain set near the starting model's"
    when: ClassVar = "The companion of rmu and adaptive_rmu; give it the layer that they steer"
    source: ClassVar = "arXiv:2403.03218, section 4"

    type: Literal["activations"] = "activations"
    weight: float = Field(1.0, ge=0)  # published: 1 (OpenUnlearning), 1200 (Zephyr-7B in the paper)
    layer: int = Field(7, ge=0)  # counted from 0
    positions: Positions = Positions.ANSWER

    @property
    def needs(self) -> Needs:
        return {each: {Activation(self.layer): self.positions} for each in (Pass.RETAIN, Pass.REFERENCE_RETAIN)}

    def loss(self, scores: Scores) -> Loss:
        """Mean over texts of the mean over tokens of ||h - h_ref||^2 / D."""
        retain = scores[Pass.RETAIN]
        kept_BTD = scores[Pass.REFERENCE_RETAIN].activation_BTD(self.layer)
        hidden_BTD = retain.activation_BTD(self.layer)
        return Loss.mean(squared_distance_B(hidden_BTD, kept_BTD, mask_BT(retain, self.positions)))
