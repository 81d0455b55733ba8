"""`obliviate finetune` and `obliviate unlearn`: one model from one config."""

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

from obliviate.config import FinetuneRun, UnlearnRun
from obliviate.schema import ModelSpec
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
        return self.stages[-1].told_of(events)


class UnlearnRecipe(OfData[UnlearnRun, ModelSpec]):
    takes: ClassVar = UnlearnRun

    @cached_property
    def stages(self) -> Sequence[ModelStage]:
        return [unlearning_stage(self.config, self.corpus)]

    def conclude(self, events: Events) -> ModelSpec:
        return self.stages[-1].told_of(events)
