"""`obliviate finetune` and `obliviate unlearn`: one model from one config."""

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

from obliviate.config import FinetuneRun, TrainingRun, UnlearnRun
from obliviate.schema import ModelSpec
from obliviate_recipes.afterwards import command
from obliviate_recipes.events import Events
from obliviate_recipes.recipe import OfData
from obliviate_recipes.stage import ModelStage
from obliviate_recipes.stages.composed import unlearning_stage
from obliviate_recipes.stages.finetuning import Finetune


class FinetuneRecipe(OfData[FinetuneRun, ModelSpec]):
    takes: ClassVar = FinetuneRun

    @cached_property
    def stages(self) -> Sequence[ModelStage]:
        return [Finetune(self.config, self.corpus)]

    def conclude(self, events: Events) -> ModelSpec:
        return _concluded(self.stages[-1], self.config, events)


class UnlearnRecipe(OfData[UnlearnRun, ModelSpec]):
    takes: ClassVar = UnlearnRun

    @cached_property
    def stages(self) -> Sequence[ModelStage]:
        return [unlearning_stage(self.config, self.corpus)]

    def conclude(self, events: Events) -> ModelSpec:
        return _concluded(self.stages[-1], self.config, events)


def _concluded(stage: ModelStage, config: TrainingRun, events: Events) -> ModelSpec:
    """The model, and what to do next."""
    model = stage.told_of(events)
    events.said(f"next: {command(model.source, config.data, config.runs)}")
    return model
