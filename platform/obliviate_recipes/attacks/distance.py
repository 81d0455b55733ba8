"""How far a model under attack lies from the original: figures of the weights alone, beside what attacks measure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from obliviate.difference import Change, changes, total
from obliviate.errors import UserError
from obliviate.quantise import Format
from obliviate.runs import Run, write_json
from obliviate_recipes.attacks.base import Target
from obliviate_recipes.events import Events
from obliviate_recipes.stage import Determined, Stage, original_weights

DISTANCE_FILE = "distance.json"


@dataclass(frozen=True)
class Distance(Stage):
    kind: ClassVar = "distance"
    beside_engines: ClassVar = True

    target: Target
    original: Target
    codes: tuple[Format, ...]  # whose codes are compared
    root: str  # of all runs

    @property
    def label(self) -> str:
        return self.target.name

    @property
    def title(self) -> str:
        return f"distance of {self.target.name} from the original"

    @property
    def runs(self) -> str:
        return self.root

    @property
    def needs(self) -> tuple[Stage, ...]:
        return (*self.target.needs, *self.original.needs)

    def determined(self) -> Determined:
        return Determined({"codes": self.codes}, models={"model": self.target.model, "original": self.original.model})

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        original, model = (original_weights(each.model, self.runs) for each in (self.original, self.target))
        try:
            found = changes(original, model, self.codes)
        except UserError as error:  # what is attacked need not be another state of the original
            return {"incomparable": str(error)}
        layers = {name: _figures(change) for name, change in found.items()}
        write_json(run.directory / DISTANCE_FILE, {"all": _figures(total(found.values())), "layers": layers})
        return _figures(total(found.values()))

    def told(self, run: Run, events: Events) -> None:
        found = run.summary
        if "incomparable" in found:
            events.warned(f"{self.title}: {found['incomparable']}")
        else:
            events.said(f"{self.title}: {'; '.join(_in_words(found))}; by layer in {run.directory / DISTANCE_FILE}")


def _figures(change: Change) -> dict[str, Any]:
    return {
        "recoded": {to: change.recoded_share(to) for to in change.recoded},
        "kept": {to: change.kept(to) for to in change.recoded},
        "frobenius": change.frobenius,
        "spectral": change.spectral,
        "stable_rank": change.stable_rank,
    }


def _in_words(figures: Mapping[str, Any]) -> list[str]:
    if not figures["frobenius"]:
        return ["none: the weights are the same"]
    formats = (
        f"{to}: {share:.2%} of the codes differ, {figures['kept'][to]:.0%} of the change is kept"
        for to, share in figures["recoded"].items()
    )
    return [f"{figures['frobenius']:.2g} of the weights' norm", f"stable rank {figures['stable_rank']:.0f}", *formats]
