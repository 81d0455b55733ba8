"""Orthogonalisation: what unlearning added to the hidden states is taken out, and the model is asked again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from obliviate import storage
from obliviate.data.rows import Row
from obliviate.runs import Run, write_whole
from obliviate_eval.records import records_file, write_records
from obliviate_recipes.attacks.base import Attack, Attempt, Measured, Scene, Target
from obliviate_recipes.attacks.inside import Asked, Look
from obliviate_recipes.events import Events
from obliviate_recipes.stage import Stage

if TYPE_CHECKING:
    from obliviate_eval.inside.orthogonal import Means

MEANS_FILE = "means.safetensors"
SETTINGS = {
    "all": "all layers",
    "one": "the layer that moved furthest",
    "all-mean": "all layers, to the original's mean",
    "one-mean": "the layer that moved furthest, to the original's mean",
}


class Orthogonalise(Attack):
    """The direction of each layer comes from T's questions. Settings: all layers, or the one whose states unlearning
    moved furthest; what lies along the direction is removed, or set to the original's mean. A diagnosis: who has the
    original needs no attack."""

    title: ClassVar = "The direction that unlearning added to hidden states is removed"
    source: ClassVar = "arXiv:2409.18025"
    diagnosis: ClassVar = True

    type: Literal["orthogonalise"] = "orthogonalise"

    def attempts(self, target: Target, scene: Scene) -> Sequence[Attempt]:
        stage = Orthogonalised(target, scene)
        return [
            Attempt(f"{self.label}, {where}", scene.plain(target), Measured(stage, records_file(name)), changes=True)
            for name, where in SETTINGS.items()
        ]


@dataclass(frozen=True)
class Direction(Look):
    """The mean states of the original over T's questions, once for all models. `target` is the original."""

    kind: ClassVar = "means"

    @property
    def title(self) -> str:
        return "mean hidden states of original"

    @property
    def rows(self) -> Sequence[Row]:
        return self.scene.split.attacked

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        from safetensors.torch import save_file

        from obliviate_eval.inside.look import means_of

        found = self.ask(events, means_of, self.model(), self.rows, self.engine)
        write_whole(run.directory / MEANS_FILE, lambda temporary: save_file(found._asdict(), temporary))
        return {"means": MEANS_FILE}

    @property
    def means(self) -> "Means":
        from safetensors.torch import load_file

        from obliviate_eval.inside.orthogonal import Means

        return Means(**load_file(storage.fetch(self.run.directory / MEANS_FILE)))


@dataclass(frozen=True)
class Orthogonalised(Asked):
    kind: ClassVar = "orthogonalise"

    @property
    def times(self) -> int:
        return len(SETTINGS)

    @property
    def title(self) -> str:
        return f"attack {self.target.name}: orthogonalise"

    @property
    def compared(self) -> Mapping[str, Target]:
        return {"original": self.scene.original}

    @cached_property
    def original(self) -> Direction:
        return Direction(self.scene.original, self.scene)

    @property
    def before(self) -> tuple[Stage, ...]:
        return (self.original,)

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        from obliviate_eval.inside.look import orthogonalised

        found = self.ask(
            events, orthogonalised, self.model("original"), self.model(), self.rows, self.engine, self.original.means,
            *self.asked,
        )  # fmt: skip
        for name, records in found.items():
            write_records(run.directory / records_file(name), records)
        return {"records": [records_file(name) for name in found]}
