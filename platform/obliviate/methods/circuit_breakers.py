"""Circuit breakers: representation rerouting (RR; Zou et al. 2024, arXiv:2406.04313, algorithm 1)."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import (
    ForgetObjective,
    Layer,
    Loss,
    Needs,
    Pass,
    Positions,
    Ramp,
    Scores,
    along,
    mask_BT,
    states,
)


class CircuitBreakers(ForgetObjective):
    """Hidden states on the forget set are turned until they are at right angles to the starting model's; beyond that
    nothing pulls. Its other half is `representations`, whose weight grows while this one's falls.

    Published with LoRA in the layers up to the last steered one; algorithm 1 lets this weight fall to a half. The
    default weight and ramp are those of EleutherAI's `unlearn`, which also takes the plain tokens of the whole text:
    `positions: sequence`.
    """

    title: ClassVar = "Circuit breakers (RR): turn hidden states on the forget set away from the starting model's"
    when: ClassVar = "Representations and not answers shall go; short form circuit_breakers = its pair, see below"
    source: ClassVar = "arXiv:2406.04313, algorithm 1"

    type: Literal["circuit_breakers"] = "circuit_breakers"
    weight: float = Field(default=23.0, ge=0)
    ramp: Ramp = (1.0, 0.75)
    layers: tuple[Layer, ...] = Field(default=(10, 20), min_length=1)  # published for models of 32 layers
    positions: Positions = Positions.ANSWER

    @property
    def needs(self) -> Needs:
        stats = states(self.layers, self.positions)
        return {Pass.FORGET: stats, Pass.REFERENCE_FORGET: stats}

    @property
    def steered(self) -> tuple[Layer, ...]:
        return self.layers

    def scheduled(self, done: float) -> float:
        return along(self.ramp, done)

    def loss(self, scores: Scores) -> Loss:
        """Mean over tokens and layers of relu(cos(h, h_ref))."""
        import torch
        import torch.nn.functional as F

        forget, reference = scores[Pass.FORGET], scores[Pass.REFERENCE_FORGET]
        cosine_LBT = torch.stack(
            [
                F.cosine_similarity(forget.activation_BTD(layer), reference.activation_BTD(layer), dim=-1)
                for layer in self.layers
            ]
        )
        return Loss.mean(cosine_LBT.relu().mean(0), mask_BT(forget, self.positions))
