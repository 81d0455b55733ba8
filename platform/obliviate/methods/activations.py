"""Hidden states held near the starting model's (RMU's retain term; Li et al. 2024, arXiv:2403.03218, section 4)."""

from typing import ClassVar, Literal, Self

from pydantic import Field

from obliviate.methods.base import (
    ForgetObjective,
    Layer,
    Loss,
    Needs,
    Pass,
    Positions,
    Regularizer,
    Scores,
    mask_BT,
)
from obliviate.methods.rmu import squared_distance_B
from obliviate.scoring import Activation


class Activations(Regularizer):
    title: ClassVar = "Hold one layer's hidden states on the retain set near the starting model's"
    when: ClassVar = "The companion of rmu and adaptive_rmu: it holds the layer that they steer, or the one it is given"
    source: ClassVar = "arXiv:2403.03218, section 4"

    type: Literal["activations"] = "activations"
    weight: float = Field(default=1.0, ge=0)  # published: 1 (OpenUnlearning), 1200 (Zephyr-7B in the paper)
    layer: Layer | None = None  # None: the one that the forget objective steers
    positions: Positions = Positions.ANSWER

    def beside(self, forget: ForgetObjective) -> Self:
        if self.layer is not None:
            return self
        if len(forget.steered) != 1:
            found = "several layers, and one is held" if forget.steered else "no layer whose states could be held"
            raise ValueError(f"activations.layer: {forget.type} steers {found}; give one")
        return self.model_copy(update={"layer": forget.steered[0]})

    @property
    def needs(self) -> Needs:
        return {each: {Activation(self._layer): self.positions} for each in (Pass.RETAIN, Pass.REFERENCE_RETAIN)}

    @property
    def _layer(self) -> Layer:
        assert self.layer is not None, "beside() gives a regularizer without a layer the forget objective's"
        return self.layer

    def loss(self, scores: Scores) -> Loss:
        """Mean over texts of the mean over tokens of ||h - h_ref||^2 / D."""
        retain = scores[Pass.RETAIN]
        kept_BTD = scores[Pass.REFERENCE_RETAIN].activation_BTD(self._layer)
        hidden_BTD = retain.activation_BTD(self._layer)
        return Loss.mean(squared_distance_B(hidden_BTD, kept_BTD, mask_BT(retain, self.positions)))
