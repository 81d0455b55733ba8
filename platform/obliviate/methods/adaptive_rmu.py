"""Adaptive RMU: a steering target as long as the layer's own hidden states ask for (Dang et al. 2024,
arXiv:2408.06223)."""

from typing import ClassVar, Literal, Self

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Layer, Loss, Needs, Pass, Positions, Scores, mask_BT
from obliviate.methods.rmu import direction, squared_distance_B
from obliviate.scoring import Activation


class AdaptiveRMU(ForgetObjective):
    """RMU's target length c fits one layer of one model; here it is `scale` times the length of the starting model's
    hidden state of the same token, so that later layers, whose states are longer, are steered as far.

    Published code takes the mean length over its first batch for all tokens.
    """

    title: ClassVar = "Adaptive RMU: RMU whose target is as long as the starting model's hidden states, scaled"
    when: ClassVar = "RMU on any layer without tuning; short form adaptive_rmu = adaptive_rmu+activations"
    source: ClassVar = "arXiv:2408.06223"

    type: Literal["adaptive_rmu"] = "adaptive_rmu"
    layer: Layer = 7  # its output is steered
    scale: float = Field(default=5.0, gt=0)
    positions: Positions = Positions.ANSWER
    seed: int | None = Field(default=None, ge=0)  # of u; None: the run's

    @property
    def needs(self) -> Needs:
        return {each: {Activation(self.layer): self.positions} for each in (Pass.FORGET, Pass.REFERENCE_FORGET)}

    @property
    def steered(self) -> tuple[Layer, ...]:
        return (self.layer,)

    def seeded(self, seed: int) -> Self:
        return self if self.seed is not None else self.model_copy(update={"seed": seed})

    def loss(self, scores: Scores) -> Loss:
        """Mean over texts of the mean over tokens of ||h - scale ||h_ref|| u||^2 / D."""
        forget = scores[Pass.FORGET]
        hidden_BTD = forget.activation_BTD(self.layer)
        length_BT1 = scores[Pass.REFERENCE_FORGET].activation_BTD(self.layer).norm(dim=-1, keepdim=True)
        target_BTD = self.scale * length_BT1 * direction(self.seed, hidden_BTD)
        return Loss.mean(squared_distance_B(hidden_BTD, target_BTD, mask_BT(forget, self.positions)))
