"""`obliviate sweep` with `kind: attack`: which attack, which of its settings are searched, and how."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from obliviate.config_file import RunSpec, build
from obliviate_recipes.attacking import AttackedModels
from obliviate_recipes.attacks.base import Attack, Attempt, Scene, Target
from obliviate_recipes.attacks.spec import AttackSpec
from obliviate_recipes.stage import Stage
from obliviate_recipes.sweeps.space import Axis, Point, Space, axes_of
from obliviate_recipes.sweeps.spec import AnySampler, GridSampler, Trials, at


class _One(RunSpec):
    attack: AttackSpec


class WorstCaseRun(AttackedModels, Trials):
    """`attack` holds what the settings do not vary."""

    title: str = "Worst case of an attack"
    kind: Literal["attack"]
    attack: AttackSpec
    settings: dict[str, Axis]  # learning_rates.0, lora.rank, ... -> what it may be
    sampler: AnySampler = GridSampler()

    @model_validator(mode="before")
    @classmethod
    def _short_axes(cls, values: Any) -> Any:
        """As in the space of a sweep over methods."""
        if not isinstance(values, Mapping) or not isinstance(values.get("settings"), Mapping):
            return values
        return {**values, "settings": axes_of(values["settings"])}

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if not self.settings:
            raise ValueError("settings: nothing to search; name at least one key of the attack, such as lora.rank: [4]")
        if self.attack.diagnosis:
            raise ValueError(f"attack: {self.attack.type}: is a diagnosis, which no attacker could make; take another")
        for point in self.space.corners():
            self.attack_at(point)
        return self

    @property
    def space(self) -> Space:
        return Space(methods={self.attack.label: dict(self.settings)})

    @property
    def objective_count(self) -> int:
        return 1

    def attack_at(self, point: Point) -> Attack:
        """Raises UserError where the attack refuses a value."""
        overrides = [f"attack.{name}={json.dumps(value)}" for name, value in point.values.items()]
        return build(_One, {"attack": self.attack.model_dump(mode="json")}, overrides, where="settings").attack

    def canonical(self, point: Point) -> Point:
        found = self.attack_at(point).model_dump(mode="json")
        return Point(point.method, {name: at(found, name) for name in point.values})


class AtSettings(Attack):
    """One attack at several points of its settings."""

    title: ClassVar = "An attack at several settings"
    source: ClassVar = "arXiv:2502.05209"

    type: Literal["at_settings"] = "at_settings"
    points: tuple[tuple[str, AttackSpec], ...]  # what a point is called, and the attack there

    def check(self, scene: Scene) -> None:
        for _, attack in self.points:
            attack.check(scene)

    def attempts(self, target: Target, scene: Scene) -> Sequence[Attempt]:
        return [
            replace(attempt, setting=f"{attempt.setting} ({called})")
            for called, attack in self.points
            for attempt in attack.attempts(target, scene)
        ]

    def beside(self, target: Target, scene: Scene) -> Sequence[Stage]:
        return list(chain.from_iterable(attack.beside(target, scene) for _, attack in self.points))


def called(point: Point) -> str:
    return ", ".join(f"{name}={value}" for name, value in point.values.items())
