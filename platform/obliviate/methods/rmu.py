"""Representation misdirection for unlearning (RMU; Li et al. 2024, arXiv:2403.03218, section 4)."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Layer, Loss, Needs, Pass, Positions, Scores, mask_BT, states

if TYPE_CHECKING:
    from torch import Tensor


class RMU(ForgetObjective):
    """The hidden states of one layer are drawn to c u, u a random direction in the positive orthant.

    The paper trains the MLP's down-projections of layers 5 to 7 alone (`trainable`), and averages over all tokens
    (`positions: sequence`); the configuration of OpenUnlearning, whose defaults these are, trains everything and
    averages over the answer. Its code multiplies every text's sum by the mean of all texts' 1/tokens, where a batch has
    more than one; here each text is divided by its own.

    With `without`, minor components alone are steered (MCU; arXiv:2605.11685): what forget texts' hidden states have
    most in common, which is grammar rather than knowledge, is taken out before the distance is. Published with 32.
    """

    title: ClassVar = "RMU: steer one layer's hidden states on the forget set to a random vector"
    when: ClassVar = "Hazardous knowledge in plain text (WMDP); short form rmu = rmu+activations"
    source: ClassVar = "arXiv:2403.03218, section 4"

    type: Literal["rmu"] = "rmu"
    layer: Layer = 7  # its output is steered
    steering: float = Field(default=2.0, gt=0)  # c: the length of the target; published: 2 to 20, 6.5 for Zephyr-7B
    without: int = Field(default=0, ge=0)  # leading components of the forget set's hidden states that are left alone
    positions: Positions = Positions.ANSWER
    seed: int | None = Field(default=None, ge=0)  # of u; None: the run's

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: states((self.layer,), self.positions, self.without)}

    @property
    def steered(self) -> tuple[Layer, ...]:
        return (self.layer,)

    def seeded(self, seed: int) -> Self:
        return self if self.seed is not None else self.model_copy(update={"seed": seed})

    def loss(self, scores: Scores) -> Loss:
        """Mean over texts of the mean over tokens of ||h - c u||^2 / D, h less its leading components."""
        forget = scores[Pass.FORGET]
        hidden_BTD = forget.activation_BTD(self.layer, self.without)
        target_D = self.steering * direction(self.seed, hidden_BTD)
        return Loss.mean(squared_distance_B(hidden_BTD, target_D, mask_BT(forget, self.positions)))


def direction(seed: int | None, like_BTD: "Tensor") -> "Tensor":
    """u [D]: uniform in [0, 1) in each dimension, then of length 1. Drawn on the CPU: the same on every worker."""
    import torch
    import torch.nn.functional as F

    assert seed is not None, "a term is told the run's seed before its first loss"
    u_D = torch.rand(like_BTD.shape[-1], generator=torch.Generator().manual_seed(seed))
    return F.normalize(u_D, dim=0).to(like_BTD)


def squared_distance_B(hidden_BTD: "Tensor", target: "Tensor", mask_BT: "Tensor") -> "Tensor":
    """Of each text, the mean over its marked tokens of the squared distance over D."""
    distance_BT = (hidden_BTD - target).square().mean(-1) * mask_BT
    return distance_BT.sum(-1) / mask_BT.sum(-1).clamp(min=1)
