"""What a sweep keeps of each trial: one JSON file, written whole, from which everything else is computed again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from obliviate import storage
from obliviate.runs import read_part, write_part
from obliviate_recipes.sweeps.space import Point

TRIALS = "trials"  # folder of the records in that of the sweep

# stopped: by the scheduler. failed: for good (a loss that is not finite). crashed: its process died, or what it needs
# was out of reach; the same command tries it again.
Status = Literal["running", "done", "stopped", "failed", "crashed"]


@dataclass(frozen=True)
class Trial:
    """A configuration with a seed."""

    point: Point
    seed: int

    @cached_property
    def id(self) -> str:
        return f"{self.point.id}-s{self.seed}"

    @property
    def overrides(self) -> list[str]:
        return [*self.point.overrides, f"seed={self.seed}"]


@dataclass(frozen=True)
class TrialRecord:
    """`signals` are what the scheduler saw, in order; figures are None until the trial is measured."""

    id: str
    method: str
    values: Mapping[str, Any]
    seed: int
    status: Status
    cause: str = ""
    run: str | None = None  # folder of the unlearning run, with the model
    evaluation: str | None = None  # folder of the evaluation run
    forget: float | None = None
    utility: float | None = None
    survives: float | None = None  # with robustness
    attacked: str | None = None  # folder of its attacks
    steps: int = 0  # optimiser steps done
    signals: tuple[Mapping[str, Any], ...] = field(default=())
    train_s: float = 0.0
    evaluate_s: float = 0.0

    @classmethod
    def start(cls, trial: Trial) -> "TrialRecord":
        return cls(trial.id, trial.point.method, dict(trial.point.values), trial.seed, "running")

    @classmethod
    def find(cls, directory: Path, trial: Trial) -> "TrialRecord | None":
        path = storage.fetch(_path(directory, trial.id))
        return _read(path) if path.exists() else None

    def write(self, directory: Path) -> None:
        write_part(_path(directory, self.id), asdict(self))

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do about it."""
        return self.status in ("done", "stopped", "failed")

    @property
    def trial(self) -> Trial:
        return Trial(Point(self.method, self.values), self.seed)


_RECORD = TypeAdapter(TrialRecord)


def read_records(directory: Path) -> list[TrialRecord]:
    """Of all trials of the sweep in `directory`, by id."""
    found = storage.fetch_loose(directory / TRIALS).glob("*.json")
    return [record for path in sorted(found) if (record := _read(path)) is not None]


def _read(path: Path) -> TrialRecord | None:
    """None where it is damaged: the trial's stages tell what is done of it."""
    found = read_part(path)
    return None if found is None else _RECORD.validate_python(found)


def _path(directory: Path, trial: str) -> Path:
    return directory / TRIALS / f"{trial}.json"
