"""Hidden states of several layers held near the starting model's: the retain side of circuit breakers (Zou et al. 2024,
arXiv:2406.04313, algorithm 1)."""

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field

from obliviate.methods.base import (
    ForgetObjective,
    Layer,
    Loss,
    Needs,
    Pass,
    Positions,
    Ramp,
    Regularizer,
    Scores,
    along,
    mask_BT,
    states,
)


class Representations(Regularizer):
    """`activations` takes one layer's squared distance; here it is the distance, of any number of layers.

    `relative` divides each token's by the length of the starting model's state, as arXiv:2605.11685 holds its models
    (its code by the mean length over a batch).
    """

    title: ClassVar = "Hold several layers' hidden states on the retain set near the starting model's, by distance"
    when: ClassVar = "The companion of circuit_breakers, and of mlp_breaking; by itself no weight grows: ramp=[1, 1]"
    source: ClassVar = "arXiv:2406.04313, algorithm 1"

    type: Literal["representations"] = "representations"
    weight: float = Field(default=2.0, ge=0)
    ramp: Ramp = (0.0, 1.0)
    layers: tuple[Layer, ...] | None = Field(default=None, min_length=1)  # None: those the forget objective steers
    relative: bool = False
    positions: Positions = Positions.ANSWER

    def beside(self, forget: ForgetObjective) -> Self:
        return self if self.layers is not None else self.model_copy(update={"layers": steered(self.type, forget)})

    @property
    def needs(self) -> Needs:
        stats = states(self._layers, self.positions)
        return {Pass.RETAIN: stats, Pass.REFERENCE_RETAIN: stats}

    @property
    def _layers(self) -> tuple[Layer, ...]:
        assert self.layers is not None, "beside() gives a regularizer without layers the forget objective's"
        return self.layers

    def scheduled(self, done: float) -> float:
        return along(self.ramp, done)

    def loss(self, scores: Scores) -> Loss:
        """Mean over tokens and layers of ||h - h_ref||, or of ||h - h_ref|| / ||h_ref||."""
        retain, reference = scores[Pass.RETAIN], scores[Pass.REFERENCE_RETAIN]
        distances = []
        for layer in self._layers:
            kept_BTD = reference.activation_BTD(layer)
            # vector_norm's gradient where nothing has moved is 0, and not NaN.
            distance_BT = torch.linalg.vector_norm(retain.activation_BTD(layer) - kept_BTD, dim=-1)
            distances.append(distance_BT / kept_BTD.norm(dim=-1).clamp(min=1e-12) if self.relative else distance_BT)
        return Loss.mean(torch.stack(distances).mean(0), mask_BT(retain, self.positions))


def steered(name: str, forget: ForgetObjective) -> tuple[Layer, ...]:
    """The layers that a regularizer of this name takes from the forget objective. Raises ValueError for none."""
    if not forget.steered:
        raise ValueError(f"{name}.layers: {forget.type} steers no layer whose states could be read; give some")
    return forget.steered
