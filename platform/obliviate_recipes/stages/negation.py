"""Subtracting what was learned."""

import shutil
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from obliviate import storage
from obliviate.arithmetic import negate
from obliviate.config import UnlearnRun
from obliviate.runs import Run, write_whole
from obliviate.schema import ModelSpec
from obliviate.source import export_dtype
from obliviate.train.log import STEPS_FILE
from obliviate_recipes.events import Events
from obliviate_recipes.stage import MODEL, Determined, ModelStage, Stage, original_weights
from obliviate_recipes.stages.card import write_card
from obliviate_recipes.stages.judged import JUDGED
from obliviate_recipes.stages.training import LEFT_OUT
from obliviate_recipes.stages.unlearning import Learn


@dataclass(frozen=True)
class Negation(ModelStage):
    """Subtracts what was learned, in one training or several, from the original."""

    kind: ClassVar = "unlearn"
    waits: ClassVar = True  # another sweep may be at the same scale

    config: UnlearnRun
    learned: tuple[Learn, ...]

    @property
    def scale(self) -> float:
        assert self.config.method.negation is not None
        return self.config.method.negation.scale

    @property
    def base(self) -> ModelSpec:
        return self.config.model

    @property
    def label(self) -> str:
        return self.learned[0].label

    @property
    def title(self) -> str:
        return f"subtract {self.scale:g} times the change of the weights from the original"

    @property
    def needs(self) -> tuple[Stage, ...]:
        return (*self.learned[0].before, *self.learned)

    def check(self) -> None:
        if self._maker(self.config.model) is None:
            original_weights(self.config.model, self.config.runs)  # what cannot be subtracted from, before training

    def determined(self) -> Determined:
        first, whole = self.learned[0].determined(), self.config.model_dump(mode="json")
        learned = {f"learned_{place}": each.run.content for place, each in enumerate(self.learned)}
        config = self.config.model_dump(mode="json", exclude=LEFT_OUT)
        return Determined(config, {**first.inputs, **learned}, first.models, whole)

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        learned = [storage.fetch(each.folder) for each in self.learned]
        original = original_weights(self.config.model, self.config.runs)
        negate(original, learned, self.scale, self.folder, export_dtype(self.config.model))
        first = self.learned[0].run
        for name in (STEPS_FILE, JUDGED):  # what training logged, and what it left out
            if (file := first.directory / name).exists():
                write_whole(run.directory / name, partial(shutil.copyfile, file))
        write_card(run, MODEL)
        return {"model": MODEL, "learned": first.directory.name, "steps": first.summary["steps"]}
