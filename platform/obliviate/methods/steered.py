"""Regularizers of the hidden states that a forget objective steers."""

from collections.abc import Mapping
from typing import Self

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Layer, Positions, Ramp, Regularizer, along, states
from obliviate.scoring import AnyStat


class OfSteered(Regularizer):
    """Their weight follows a ramp, by default from nothing, while the forget objective's falls."""

    ramp: Ramp = (0.0, 1.0)
    layers: tuple[Layer, ...] | None = Field(default=None, min_length=1)  # None: those the forget objective steers
    positions: Positions = Positions.ANSWER

    def beside(self, forget: ForgetObjective) -> Self:
        """Raises ValueError where it has no layers, and the forget objective steers none."""
        if self.layers is not None:
            return self
        if not forget.steered:
            raise ValueError(f"{self.type}.layers: {forget.type} steers no layer whose states could be read; give some")
        return self.model_copy(update={"layers": forget.steered})

    def scheduled(self, done: float) -> float:
        return along(self.ramp, done)

    @property
    def _layers(self) -> tuple[Layer, ...]:
        assert self.layers is not None, "beside() gives a regularizer without layers the forget objective's"
        return self.layers

    @property
    def _stats(self) -> Mapping[AnyStat, Positions]:
        return states(self._layers, self.positions)
