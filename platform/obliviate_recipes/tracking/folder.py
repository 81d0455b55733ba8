"""What there is to tell of a run: read from its folder, so that it is the same for one that was made before."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from obliviate import storage
from obliviate.runs import DONE_FILE, FILES, STEPS_FILE, content_hash, record_of, write_json
from obliviate_eval.robustness import ROBUSTNESS_FILE
from obliviate_eval.summary import METRICS_FILE
from obliviate_recipes.reporting import REPORT
from obliviate_recipes.stage import MODEL
from obliviate_recipes.tracking.board import Begun, Ended, flat

REPORTS = (REPORT, "report.json", "summary.md", "front.svg", "outcome.json")
FIGURES = (METRICS_FILE, ROBUSTNESS_FILE)
STATE = ".tracked.json"  # what trackers have been told of the run: place -> last step, and whether it has ended


def tells(folder: Path) -> bool:
    """Whether there is anything to look at: many runs hold no more than texts for others."""
    return any((folder / name).exists() for name in (STEPS_FILE, REPORT, *FIGURES))


def begun(folder: Path, group: str, *, resumed: bool) -> Begun:
    record = record_of(folder)
    made = hashlib.sha256(str(record.get("created")).encode()).hexdigest()[:6]  # one that is made again is another
    config = {key: record.get(key) for key in ("config", "inputs", "content", "git_revision", "versions")}
    name = f"{record['verb']} {record['label']}"
    return Begun(f"{folder.name}-{made}", name, record["verb"], group, config, resumed)


def ended(folder: Path, *, failed: bool = False) -> Ended:
    figures: dict[str, float] = {}
    for name in FIGURES:
        if (folder / name).exists():
            figures |= numbers(json.loads((folder / name).read_bytes()))
    if (folder / DONE_FILE).exists():
        done = json.loads((folder / DONE_FILE).read_bytes())
        figures |= numbers({key: value for key, value in done.items() if key != FILES}, "done")
    model = folder / MODEL
    texts = {"model": storage.name(model)} if model.exists() else {}
    files = [folder / name for name in REPORTS if (folder / name).exists()]
    return Ended(figures, {**texts, "run": storage.name(folder)}, files, failed)


def numbers(values: Mapping[str, Any], key: str = "") -> dict[str, float]:
    """The finite ones."""
    return {name: float(value) for name, value in flat(values, key)
            if isinstance(value, bool | int | float) and math.isfinite(value)}  # fmt: skip


def of_step(step: Mapping[str, Any]) -> dict[str, float]:
    """A line of a training's log, without the step's own number."""
    return numbers({key: value for key, value in step.items() if key not in ("step", "steps", "digest")})


def fingerprint(folder: Path) -> str:
    """Another where its figures are: a sweep that goes on writes its report anew."""
    looked = (*FIGURES, "report.json", STEPS_FILE)
    return content_hash({name: storage.digest(folder / name) for name in looked if (folder / name).exists()})


class State:
    """What a tracker has been told of a run, in the run's folder: a process that takes it up tells the rest."""

    def __init__(self, path: Path, place: str) -> None:
        self._path, self._place = path, place
        told: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
        found = told.get(place, {})
        self.step: int = found.get("step", 0)
        self.ended: str | None = found.get("ended")
        self.known = place in told

    def write(self) -> None:
        told = json.loads(self._path.read_bytes()) if self._path.exists() else {}
        write_json(self._path, {**told, self._place: {"step": self.step, "ended": self.ended}})
