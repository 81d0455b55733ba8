"""`obliviate finetune` and `obliviate unlearn`: one model from one config."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, TypeVar

from obliviate.config import FinetuneRun, TrainingRun, UnlearnRun
from obliviate.schema import ModelSpec
from obliviate_recipes.afterwards import command
from obliviate_recipes.events import Events
from obliviate_recipes.push import push, require_hub
from obliviate_recipes.recipe import OfData
from obliviate_recipes.stage import ModelStage
from obliviate_recipes.stages.composed import unlearning_stage
from obliviate_recipes.stages.finetuning import Finetune

T = TypeVar("T", bound=TrainingRun)


class _Trains(OfData[T, ModelSpec]):
    """Makes a model, and sends it to the hub where the config says so."""

    @cached_property
    @abstractmethod
    def stages(self) -> Sequence[ModelStage]: ...

    def perform(self, events: Events) -> ModelSpec:
        if self.config.push_to_hub is not None:
            require_hub()
        return super().perform(events)

    def conclude(self, events: Events) -> ModelSpec:
        """The model, and what to do next."""
        config, stage = self.config, self.stages[-1]
        model = stage.told_of(events)
        if config.push_to_hub is not None:
            push(stage.run.directory, config.push_to_hub, events)
        events.said(f"next: {command(model.source, config.data, config.runs)}")
        return model


class FinetuneRecipe(_Trains[FinetuneRun]):
    takes: ClassVar = FinetuneRun

    @cached_property
    def stages(self) -> Sequence[ModelStage]:
        return [Finetune(self.config, self.corpus)]


class UnlearnRecipe(_Trains[UnlearnRun]):
    takes: ClassVar = UnlearnRun

    @cached_property
    def stages(self) -> Sequence[ModelStage]:
        return [unlearning_stage(self.config, self.corpus)]
