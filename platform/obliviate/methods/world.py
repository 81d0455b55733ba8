"""Gradient descent on general instructions: Opt-Out's world data (arXiv:2406.12329v3)."""

from typing import ClassVar, Literal

from obliviate.methods.base import Loss, Needs, Pass, Positions, Regularizer, Scores
from obliviate.scoring import Stat


class World(Regularizer):
    """Beside `gd`, which keeps the neighbours of what is forgotten: this keeps what the model is good at otherwise.

    The instructions are those of the run's `world` file. Every forget item meets one of them, drawn like its retain
    item; published code keeps as many of each as there are forget items.
    """

    title: ClassVar = "World data: cross-entropy of general instructions"
    when: ClassVar = "Opt-Out's companion of gd, where instructions with answers are at hand (`world`)"
    source: ClassVar = "arXiv:2406.12329v3"

    type: Literal["world"] = "world"

    @property
    def needs(self) -> Needs:
        return {Pass.WORLD: {Stat.LOGP: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over answer tokens of -log p, nats."""
        world = scores[Pass.WORLD]
        return Loss.mean(-world.logp_BT, world.answer_BT)
