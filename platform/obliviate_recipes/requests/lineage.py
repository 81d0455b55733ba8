"""Which models in the folder of runs still know what another one was made to forget: it was not taken from them."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from obliviate import storage
from obliviate.runs import RUN_FILE

WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".distcp")


@dataclass(frozen=True)
class Runs:
    """What the records of all runs in a folder say of each other."""

    root: Path
    records: Mapping[str, Mapping[str, Any]]  # name -> what its run.json holds

    @classmethod
    def read(cls, root: Path) -> "Runs":
        records = {}
        for folder in storage.children(root):
            try:
                records[folder.name] = json.loads(storage.read_bytes(folder / RUN_FILE))
            except (OSError, ValueError):  # no run, or a damaged record, which `verify` tells
                continue
        return cls(root, records)

    def made_of(self, names: Collection[str], *, but: Collection[str] = ()) -> list[str]:
        """The runs that were made of these, or of what was made of these, but not of those in `but`; without these."""
        found: set[str] = set()
        reached = set(names)
        while reached:
            found |= reached
            reached = {
                name
                for name, record in self.records.items()
                if name not in found and name not in but and not reached.isdisjoint(record.get("made_of", {}))
            }
        return sorted(found - set(names))

    def of_model(self, model: str) -> str | None:
        """The run that made the model, which may be a folder in it; None for one of elsewhere."""
        of = [each.name for each in storage.local(model).parents if each.parent == self.root]
        return next((name for name in of if name in self.records), None)

    def from_source(self, model: str) -> list[str]:
        """The runs whose config begins with this model."""
        found = []
        for name, record in self.records.items():
            spec = record.get("config", {}).get("model")
            if isinstance(spec, dict) and spec.get("source") == model:
                found.append(name)
        return found

    def weights(self, name: str) -> list[str]:
        """The folders of the run that hold weights, as they are called in it."""
        files = storage.sizes(self.root / name)
        return sorted({each.partition("/")[0] for each in files if each.endswith(WEIGHTS) and "/" in each})


def that_know(runs: Runs, before: Collection[str], after: str) -> dict[str, list[str]]:
    """Run -> its folders of weights, of the models `before` and all that were made from them, but not from `after`."""
    clean = {name for name in (runs.of_model(after),) if name is not None}
    clean |= {*runs.made_of(clean), *runs.from_source(after)}
    first = {name for model in before for name in (runs.of_model(model), *runs.from_source(model)) if name is not None}
    known = {*first, *runs.made_of(first, but=clean)} - clean
    return {name: folders for name in sorted(known) if (folders := runs.weights(name))}
