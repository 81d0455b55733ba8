"""MLP breaking, by itself or of minor components (MCU; arXiv:2605.11685, after its code)."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Layer, Loss, Needs, Pass, Positions, Scores, mask_BT, states


class MLPBreaking(ForgetObjective):
    """What MLPs add to the residual stream on the forget set loses what it has in common with what they added at the
    start, and no more: below `floor` of it nothing pulls.

    Relearning finds broken parts again by the directions that all texts share: with `without`, those leading components
    are taken out of both sides, and what is broken is what only these texts have. Published with `trainable` restricted
    to the MLPs, and `representations` of the layer above the last one. Its code divides by the batch's mean length,
    squared; here each token by its own.
    """

    title: ClassVar = "MLP breaking (MCU): take the starting model's own MLP outputs out of them on the forget set"
    when: ClassVar = "Against relearning; short form mlp_breaking = mlp_breaking+representations; without=0 is not MCU"
    source: ClassVar = "arXiv:2605.11685"

    type: Literal["mlp_breaking"] = "mlp_breaking"
    layers: tuple[Layer, ...] = Field(
        default=tuple(f"model.layers.{number}.mlp" for number in range(6, 12)), min_length=1
    )  # published for models of 32 layers
    floor: float = 0.0  # of the starting model's part, at which a token is broken
    without: int = Field(default=32, ge=0)  # leading components of the forget set's outputs that are left alone
    positions: Positions = Positions.ANSWER

    @property
    def needs(self) -> Needs:
        stats = states(self.layers, self.positions, self.without)
        return {Pass.FORGET: stats, Pass.REFERENCE_FORGET: stats}

    @property
    def steered(self) -> tuple[Layer, ...]:
        return self.layers

    def loss(self, scores: Scores) -> Loss:
        """Mean over tokens and layers of max(floor, <o, o_ref> / ||o_ref||^2), o less its leading components."""
        import torch

        forget, reference = scores[Pass.FORGET], scores[Pass.REFERENCE_FORGET]
        parts = []
        for layer in self.layers:
            start_BTD = reference.activation_BTD(layer, self.without)
            common_BT = (forget.activation_BTD(layer, self.without) * start_BTD).sum(-1)
            parts.append((common_BT / start_BTD.square().sum(-1).clamp(min=1e-12)).clamp(min=self.floor))
        return Loss.mean(torch.stack(parts).mean(0), mask_BT(forget, self.positions))
