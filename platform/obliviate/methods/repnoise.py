"""Representation noising (RepNoise; Rosati et al. 2024, arXiv:2405.14577, after its code)."""

from math import exp, log1p
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Layer, Loss, Needs, Pass, Positions, Scores, states
from obliviate.scoring import Stat, TokenScores

if TYPE_CHECKING:
    from torch import Tensor

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the five kernels, in units of the mean squared distance of two draws of noise


class RepNoise(ForgetObjective):
    """What MLPs put out at the forget set's answers becomes Gaussian noise, so that nothing is left there that
    relearning could use, and the answers' surprise rises, slower the higher it is. Its retain side is `gd`.

    The distance from noise is the maximum mean discrepancy from N(0, I). The published code draws noise and compares
    within a batch, with kernels as wide as that batch; here the expectations over noise are taken in closed form, the
    kernels are as wide as noise is, and a text's tokens are compared with those of one other forget row, drawn anew in
    every epoch, so that the mean is the same however a batch is cut. It compares whole texts, here tokens; it noises
    the MLPs of all layers (name them in `layers`), and also raises the surprise that each layer's logit lens has.
    """

    title: ClassVar = "RepNoise: MLP outputs on the forget set become Gaussian noise, and the answers surprising"
    when: ClassVar = "A baseline against relearning; short form repnoise = repnoise+gd; costs a second forget text"
    source: ClassVar = "arXiv:2405.14577"

    type: Literal["repnoise"] = "repnoise"
    layers: tuple[Layer, ...] = Field(
        default=tuple(f"model.layers.{number}.mlp" for number in range(4, 28, 4)), min_length=1
    )
    noise: float = Field(default=0.001, ge=0)  # beta, of the discrepancy
    surprise: float = Field(default=1.0, ge=0)  # alpha, of log(1 + surprise)

    @property
    def needs(self) -> Needs:
        stats = states(self.layers, Positions.ANSWER)
        return {Pass.FORGET: {**stats, Stat.LOGP: Positions.ANSWER}, Pass.FORGET_OTHER: stats}

    @property
    def steered(self) -> tuple[Layer, ...]:
        return self.layers

    def loss(self, scores: Scores) -> Loss:
        """Mean over texts of noise x MMD^2, averaged over layers, - surprise x log(1 + mean over tokens of -log p)."""
        import torch

        forget, other = scores[Pass.FORGET], scores[Pass.FORGET_OTHER]
        away_B = torch.stack([discrepancy_B(forget, other, layer) for layer in self.layers]).mean(0)
        surprise_B = -forget.logp_B / forget.tokens_B.clamp(min=1)
        return Loss.mean(self.noise * away_B - self.surprise * surprise_B.log1p())


def discrepancy_B(one: TokenScores, other: TokenScores, layer: Layer) -> "Tensor":
    """Of each pair of texts an estimate of the squared discrepancy between the layer's outputs at answer tokens and
    N(0, I) in D dimensions, summed over kernels k(x, y) = exp(-||x - y||^2 / b), b = 2 D times each of `WIDTHS`.

    E k(x, x') - 2 E k(x, n) + E k(n, n'), where E k(x, n) = (1 + 2 / b)^(-D/2) exp(-||x||^2 / (b + 2)) and
    E k(n, n') = (1 + 4 / b)^(-D/2).
    """
    import torch

    x_BTD, y_BTD = one.activation_BTD(layer), other.activation_BTD(layer)
    width = x_BTD.shape[-1]
    length_BT = x_BTD.square().sum(-1)
    distance_BTT = length_BT[..., None] + y_BTD.square().sum(-1)[:, None] - 2 * x_BTD @ y_BTD.mT
    weight_BT = one.answer_BT / one.tokens_B.clamp(min=1)[:, None]
    weight_BTT = weight_BT[..., None] * (other.answer_BT / other.tokens_B.clamp(min=1)[:, None])[:, None]
    found_B = torch.zeros_like(weight_BT[:, 0])
    for factor in WIDTHS:
        b = 2 * width * factor
        alike_B = (weight_BTT * (-distance_BTT.clamp(min=0) / b).exp()).sum((1, 2))
        noisy_B = (weight_BT * (-length_BT / (b + 2)).exp()).sum(-1) * exp(-width / 2 * log1p(2 / b))
        found_B = found_B + alike_B - 2 * noisy_B + exp(-width / 2 * log1p(4 / b))
    return found_B
