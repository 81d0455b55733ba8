"""Which texts meet in which optimiser step.

The schedule is a pure function of (seed, epoch, index): every worker knows the whole of it, and neither the number of
workers nor the size of a micro-batch changes which texts a step sees.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from obliviate.schema import OptimSpec


@dataclass(frozen=True)
class Item:
    """One anchor and its companions, as indices: what a step trains on at once."""

    anchor: int = 0
    retain: int = 0
    refusal: int = 0
    retain_refusal: int = 0
    mismatch: int = 0
    alternative: float = 0.0  # in [0, 1): where in the row's list of alternative answers, or of its own refusals
    world: int = 0


@dataclass(frozen=True)
class Schedule:
    """The items of every optimiser step. Epochs are seeded permutations, laid end to end and cut into full batches.

    Steps: floor(epochs * anchors / batch_size), at least one, as in the published code (forget01: 6 at batch 32).
    """

    anchors: int
    retain: int
    refusals: int
    optim: OptimSpec
    seed: int
    pairing: Literal["fresh", "fixed"] = "fresh"
    world: int = 0
    neighbours: tuple[tuple[int, ...], ...] | None = None  # of each anchor, the retain items it may meet; None: all
    of_retain: bool = False  # the anchors are the retain rows themselves (fine-tuning), not rows that draw one of them

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.anchors // self.optim.batch_size)

    @property
    def steps(self) -> int:
        return max(1, int(self.optim.epochs * self.anchors) // self.optim.batch_size)

    @property
    def warmup_steps(self) -> int:
        if self.optim.warmup_steps is not None:
            return self.optim.warmup_steps
        return self.steps_per_epoch if self.steps_per_epoch > 1 else 0

    def step(self, step: int) -> list[Item]:
        """The global batch of step 0, 1, ..."""
        size = self.optim.batch_size
        return [self._item(*divmod(position, self.anchors)) for position in range(step * size, (step + 1) * size)]

    def learning_rate(self, step: int) -> float:
        """Of step 0, 1, ...: linear warm-up from 0, then constant or linear to 0 at the end."""
        warmup = self.warmup_steps
        if step < warmup:
            return self.optim.learning_rate * step / warmup
        if self.optim.schedule == "constant":
            return self.optim.learning_rate
        return self.optim.learning_rate * (self.steps - step) / max(1, self.steps - warmup)

    def _item(self, epoch: int, position: int) -> Item:
        anchor = int(self._order(epoch)[position])
        key = [self.seed, anchor] if self.pairing == "fixed" else [self.seed, anchor, epoch + 1]
        draws = np.random.default_rng(key).random(6)
        retain, mismatch = (int(draw * self.retain) for draw in draws[:2])
        if self.neighbours is not None:
            near = self.neighbours[anchor]
            retain = near[int(draws[0] * len(near))]
        refusal, retain_refusal = (int(draw * self.refusals) for draw in draws[2:4])
        retain = anchor if self.of_retain else retain
        return Item(
            anchor, retain, refusal, retain_refusal, mismatch, float(draws[4]), world=int(draws[5] * self.world)
        )

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders[epoch] = np.random.default_rng([self.seed, epoch]).permutation(self.anchors)
        return self._orders[epoch]

    @cached_property
    def _orders(self) -> dict[int, np.ndarray]:
        return {}


def micro_batch_count(items: int, size: int, workers: int) -> int:
    """Into how many micro-batches a step of that many items is cut, over all workers."""
    rounds = min(-(-items // (size * workers)), items // workers)
    return rounds * workers
