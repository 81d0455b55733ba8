"""Pruning: what comes back when the weights that matter least, and may only mask what is known, are set to zero."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from obliviate import storage
from obliviate.models import skeleton
from obliviate.prune import input_norms, measured_layers, prune
from obliviate.runs import Run, write_whole
from obliviate_recipes.attacks.base import Attack, Attempt, OnTarget, Scene, Target
from obliviate_recipes.attacks.reading import Reading, require_texts
from obliviate_recipes.attacks.rewritten import Rewritten, Shares
from obliviate_recipes.events import Events
from obliviate_recipes.stage import Determined, Stage

NORMS_FILE = "norms.safetensors"


class Prune(Attack):
    """By magnitude, within each linear layer; or by WandA, each weight times the norm of what it reads in the retain
    set's texts, within each output."""

    title: ClassVar = "A share of the weights set to zero"
    source: ClassVar = "arXiv:2502.05209, arXiv:2306.11695"

    type: Literal["prune"] = "prune"
    by: Literal["magnitude", "wanda"] = "magnitude"
    shares: Shares = (0.1, 0.3, 0.5)
    rows: int = Field(default=128, ge=1)  # of the retain set that wanda reads, drawn by the seed; of fewer: all

    @property
    def label(self) -> str:
        return self.name or f"prune {self.by}"

    def check(self, scene: Scene) -> None:
        if self.by == "wanda":
            require_texts(scene, self.type, self.by, instead="magnitude")

    def attempts(self, target: Target, scene: Scene) -> Sequence[Attempt]:
        norms = Norms(target, scene, Reading.of(scene, self.rows)) if self.by == "wanda" else None
        stages = [Pruned(target, scene.runs, share, norms) for share in self.shares]
        return [scene.changed(target, f"{self.label} {stage.share:g}", stage) for stage in stages]


@dataclass(frozen=True)
class Pruned(Rewritten):
    kind: ClassVar = "prune"

    share: float
    norms: "Norms | None"

    @property
    def change(self) -> str:
        return f"{'magnitude' if self.norms is None else 'wanda'}-{self.share:g}"

    @property
    def settings(self) -> dict[str, Any]:
        return {"change": self.change, "norms": None if self.norms is None else self.norms.run.content}

    @property
    def needs(self) -> tuple[Stage, ...]:
        return (*self.target.needs, *(() if self.norms is None else (self.norms,)))

    def rewrite(self, source: Path) -> None:
        from safetensors.torch import load_file

        file = None if self.norms is None else storage.fetch(self.norms.run.directory / NORMS_FILE)
        prune(source, self.share, self.folder, None if file is None else load_file(file))


@dataclass(frozen=True)
class Norms(OnTarget):
    """What the linear layers of one model read, for all shares."""

    kind: ClassVar = "norms"

    reading: Reading

    @property
    def title(self) -> str:
        return f"read {len(self.reading.texts)} retain texts with {self.target.name}"

    def determined(self) -> Determined:
        model = self.target.model
        kept = model.model_dump(mode="json", exclude={"source", "base", "revision"})
        return Determined(
            {"dtype": self.reading.dtype, "model": kept}, {"texts": self.reading.content}, {"model": model}
        )

    def check(self) -> None:
        measured_layers(skeleton(self.at_hand(self.target.model)))

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        from safetensors.torch import save_file

        model, texts = self.reading.opened(self.target.model)
        with events.progressing(self.title) as show:

            def shown() -> Iterator[tuple[int, ...]]:
                for done, ids in enumerate(texts):
                    show(done, len(texts), "")
                    yield ids

            norms = input_norms(model, shown())
        write_whole(run.directory / NORMS_FILE, lambda path: save_file(norms, path))
        return {"texts": len(texts)}
