"""`obliviate snap`: the rows, then the training, then what it reached."""

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

from obliviate.config import UnlearnRun
from obliviate.schema import ModelSpec
from obliviate_recipes.events import Events
from obliviate_recipes.recipe import Recipe
from obliviate_recipes.snap.data import UNTOUCHED, SnapRows
from obliviate_recipes.snap.outcome import Reached
from obliviate_recipes.snap.spec import SnapRun
from obliviate_recipes.stage import ModelStage, Stage, perform
from obliviate_recipes.stages.composed import unlearning_stage
from obliviate_recipes.stages.data_files import DATA


class Snap(Recipe[SnapRun, ModelSpec]):
    """A model without the entity."""

    takes: ClassVar = SnapRun

    @cached_property
    def rows(self) -> SnapRows:
        return SnapRows(self.config)

    @property
    def training(self) -> ModelStage:
        """On the rows; before they are made, on such as are expected."""
        rows = self.rows
        if not rows.done:
            return unlearning_stage(self.config.expected, rows.expected)
        run: UnlearnRun = self.config.unlearning(rows.run.directory / DATA, rows.run.directory / UNTOUCHED)
        return unlearning_stage(run, run.data.load())

    @property
    def stages(self) -> Sequence[Stage]:
        training = self.training
        return [self.rows, training, Reached(self.rows, training)]

    def perform(self, events: Events) -> ModelSpec:
        perform([self.rows], events)
        training = self.training  # on the rows that are there by now
        perform([training, Reached(self.rows, training)], events)
        return self.conclude(events)

    def conclude(self, events: Events) -> ModelSpec:
        return self.training.told_of(events)
