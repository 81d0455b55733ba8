"""A suffix behind every question that anybody can type, searched for with the model's gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, ClassVar, Literal

from pydantic import Field

from obliviate.data.rows import Row
from obliviate.errors import UserError
from obliviate.runs import Run
from obliviate_recipes.attacks.base import Scene, Target
from obliviate_recipes.attacks.optimised import Iterations, Optimised, OptimisedOn
from obliviate_recipes.events import Events


class GCG(Optimised):
    """One suffix for all questions, found on a few rows of T and tried on V."""

    title: ClassVar = "A suffix behind the question, optimised on T (GCG)"
    source: ClassVar = "after arXiv:2307.15043, arXiv:2409.18025"

    type: Literal["gcg"] = "gcg"
    iterations: Iterations = (25, 100)
    width: int = Field(default=128, ge=1)  # suffixes tried in an iteration
    top: int = Field(default=256, ge=1)  # tokens for a place that the gradient proposes
    rows: int = Field(default=5, ge=1)  # of T that it is found on, drawn by the seed; of fewer: all

    def check(self, scene: Scene) -> None:
        if not _with_question(scene):
            raise UserError("attacks.gcg: no row of T has a question for the suffix to stand behind; leave it out")

    def stage(self, target: Target, scene: Scene) -> "Suffixed":
        return Suffixed(target, scene, self)


def _with_question(scene: Scene) -> list[Row]:
    return [row for row in scene.split.attacked if row.question]


@dataclass(frozen=True)
class Suffixed(OptimisedOn):
    kind: ClassVar = "gcg"

    attack: GCG

    @cached_property
    def rows(self) -> Sequence[Row]:
        rows = _with_question(self.scene)
        return Random(self.scene.seed).sample(rows, min(self.attack.rows, len(rows)))

    @property
    def passes(self) -> int:
        return (3 + self.attack.width) * self.attack.iterations[-1]  # a backward pass is two forward passes

    @property
    def options(self) -> Mapping[str, Any]:
        return {**super().options, "seed": self.scene.seed}

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        from obliviate_eval.inside.look import with_suffix
        from obliviate_eval.inside.suffix import Searching

        attack = self.attack
        how = Searching(
            attack.tokens, attack.width, attack.top, attack.iterations, attack.target_tokens, self.scene.seed
        )
        found = self.ask(events, with_suffix, self.model(), self.rows, self.engine, how, *self.asked)
        suffixes = {str(count): suffix for count, (suffix, _) in found.items()}
        records = {count: asked for count, (_, asked) in found.items()}
        return {**self.written(run, records), "suffixes": suffixes}
