"""A model under attack with other weights, written without training."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from obliviate import companions
from obliviate.matrices import require_plain
from obliviate.runs import Run
from obliviate.schema import ModelSpec
from obliviate.source import file_of
from obliviate_recipes.attacks.base import Target, each_once
from obliviate_recipes.events import Events
from obliviate_recipes.stage import MODEL, Determined, ModelStage, Stage, original_weights

# Of weights, or of a way
Shares = Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1), AfterValidator(each_once)]


@dataclass(frozen=True)
class Rewritten(ModelStage):
    beside_engines: ClassVar = True

    target: Target
    root: str  # of all runs

    @property
    @abstractmethod
    def change(self) -> str:
        """What is done, in a word or two."""

    @abstractmethod
    def rewrite(self, source: Path) -> None:
        """Write what becomes of the model in `source`, a folder with safetensors, to the stage's own folder."""

    @property
    def settings(self) -> dict[str, Any]:
        """All that determines it, beside the models."""
        return {"change": self.change}

    @property
    def models(self) -> dict[str, ModelSpec]:
        return {"model": self.base}

    @cached_property
    def base(self) -> ModelSpec:
        return self.target.model.model_copy(update={"lora": None})

    @property
    def label(self) -> str:
        return f"{self.change}-{self.target.name}"

    @property
    def title(self) -> str:
        return f"attack {self.target.name}: {self.change}"

    @property
    def runs(self) -> str:
        return self.root

    @property
    def needs(self) -> tuple[Stage, ...]:
        return self.target.needs

    def determined(self) -> Determined:
        whole = {**self.settings, "model": self.base.model_dump(mode="json")}
        return Determined(self.settings, models=self.models, whole=whole)

    def check(self) -> None:
        model = self.at_hand(self.base)
        require_plain(companions.read(file_of(model, companions.CONFIG)), model.source)

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        self.rewrite(original_weights(self.base, self.runs))
        return {"model": MODEL}
