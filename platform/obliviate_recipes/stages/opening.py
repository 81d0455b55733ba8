"""A model as engines and trainings of all stages open it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from obliviate.models import materialise
from obliviate.runs import Run
from obliviate.schema import ModelSpec
from obliviate.source import adapter_of
from obliviate_recipes.events import Events
from obliviate_recipes.stage import MODEL, Determined, ModelStage


@dataclass(frozen=True)
class Opened(ModelStage):
    """A GGUF, or an adapter merged into its base, as engines and trainings of all stages open it."""

    kind: ClassVar = "base"
    waits: ClassVar = True

    spec: ModelSpec
    root: str

    @property
    def base(self) -> ModelSpec:
        return self.spec

    @property
    def runs(self) -> str:
        return self.root

    @property
    def label(self) -> str:
        return Path(self.base.source).stem

    @property
    def title(self) -> str:
        return f"open {self.base.source}"

    def determined(self) -> Determined:
        return Determined({}, models={"model": self.base}, whole={"model": self.base.model_dump(mode="json")})

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        materialise(self.base, self.folder)
        return {"model": MODEL}


def opened(model: ModelSpec, runs: str) -> Opened | None:
    """None where a model is open as it is. With `lora` an adapter is trained as what it is, and stays it."""
    adapts = adapter_of(model) is not None
    if (adapts and model.lora is None) or model.source.endswith(".gguf"):
        return Opened(model, runs)
    return None
