"""A linear probe on hidden states: do they tell the true answer from false ones?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from obliviate.data.rows import Row
from obliviate.errors import UserError
from obliviate.runs import Run
from obliviate.schema import Seed
from obliviate_recipes.attacks.base import Attack, Attempt, Measured, Scene, Target
from obliviate_recipes.attacks.inside import Look
from obliviate_recipes.events import Events


class Probe(Attack):
    """Each item of V by a probe that was trained on other rows, of T and V, at the layer that does best on them."""

    title: ClassVar = "A linear probe on hidden states: do they tell the true answer from false ones?"
    source: ClassVar = "after arXiv:2402.16835"

    type: Literal["probe"] = "probe"
    seed: Seed = 0  # of the folds

    def check(self, scene: Scene) -> None:
        from obliviate_eval.inside.probe import LEAST

        if (count := len(probed_rows(scene))) < LEAST:
            raise UserError(
                f"attacks.{self.label}: {count} of the forget rows have false answers (perturbed_answer), and a probe "
                f"takes {LEAST}; give more, or leave the attack out"
            )

    def attempts(self, target: Target, scene: Scene) -> Sequence[Attempt]:
        after = Measured(Probed(target, scene, self.seed))
        return [Attempt(self.label, scene.plain(target), after, on=("probe",), own_scale=True)]


def probed_rows(scene: Scene) -> list[Row]:
    return [row for row in (*scene.split.measured, *scene.split.attacked) if row.perturbed_answers]


@dataclass(frozen=True)
class Probed(Look):
    kind: ClassVar = "probed"

    seed: Seed

    @property
    def title(self) -> str:
        return f"attack {self.target.name}: probe"

    @cached_property
    def rows(self) -> Sequence[Row]:
        return probed_rows(self.scene)

    @property
    def options(self) -> Mapping[str, Any]:
        return {"seed": self.seed, "measured": sum(bool(row.perturbed_answers) for row in self.scene.split.measured)}

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        from obliviate_eval.inside.look import truths

        found = iter(self.ask(events, truths, self.model(), self.rows, self.engine, self.seed))
        measured = self.scene.split.measured
        return self.write(run, [{"probe": next(found) if row.perturbed_answers else None} for row in measured])
