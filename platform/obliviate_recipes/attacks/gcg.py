"""A suffix behind every question that anybody can type, searched for with the model's gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from obliviate.data.rows import Row
from obliviate.errors import UserError
from obliviate.runs import Run
from obliviate_eval.records import records_file, write_records
from obliviate_recipes.attacks.base import Attack, Attempt, Measured, Scene, Target, rising
from obliviate_recipes.attacks.inside import Asked
from obliviate_recipes.events import Events


class GCG(Attack):
    """One suffix for all questions, found on a few rows of T and tried on V."""

    title: ClassVar = "A suffix behind the question, optimised on T (GCG)"
    source: ClassVar = "after arXiv:2307.15043, arXiv:2409.18025"

    type: Literal["gcg"] = "gcg"
    tokens: int = Field(default=20, ge=1)
    # After which V is asked; the last ends it
    iterations: Annotated[tuple[int, ...], AfterValidator(rising("iterations"))] = Field(
        default=(25, 100), min_length=1
    )
    width: int = Field(default=128, ge=1)  # suffixes tried in an iteration
    top: int = Field(default=256, ge=1)  # tokens for a place that the gradient proposes
    rows: int = Field(default=5, ge=1)  # of T that it is found on, drawn by the seed; of fewer: all
    target_tokens: int = Field(default=16, ge=1)  # of each answer, from its beginning on

    def check(self, scene: Scene) -> None:
        if not _with_question(scene):
            raise UserError("attacks.gcg: no row of T has a question for the suffix to stand behind; leave it out")

    def attempts(self, target: Target, scene: Scene) -> Sequence[Attempt]:
        stage = Suffixed(target, scene, self)
        return [
            Attempt(f"{self.label}, {count} iterations", scene.plain(target), Measured(stage, records_file(count)))
            for count in self.iterations
        ]


def _with_question(scene: Scene) -> list[Row]:
    return [row for row in scene.split.attacked if row.question]


@dataclass(frozen=True)
class Suffixed(Asked):
    kind: ClassVar = "gcg"

    attack: GCG

    @property
    def title(self) -> str:
        return f"attack {self.target.name}: {self.attack.label}"

    @cached_property
    def rows(self) -> Sequence[Row]:
        rows = _with_question(self.scene)
        return Random(self.scene.seed).sample(rows, min(self.attack.rows, len(rows)))

    @property
    def passes(self) -> int:
        return (3 + self.attack.width) * self.attack.iterations[-1]  # a backward pass is two forward passes

    @property
    def times(self) -> int:
        return len(self.attack.iterations)

    @property
    def options(self) -> Mapping[str, Any]:
        how = self.attack.model_dump(mode="json", exclude={"name"})
        return {**super().options, "attack": how, "seed": self.scene.seed}

    def check(self) -> None:
        super().check()
        self.check_room(self.attack.tokens, self.attack.label)

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        from obliviate_eval.inside.look import with_suffix
        from obliviate_eval.inside.suffix import Searching

        attack = self.attack
        how = Searching(
            attack.tokens, attack.width, attack.top, attack.iterations, attack.target_tokens, self.scene.seed
        )
        found = self.ask(events, with_suffix, self.model(), self.rows, self.engine, how, *self.asked)
        for count, (_, records) in found.items():
            write_records(run.directory / records_file(count), records)
        suffixes = {str(count): suffix for count, (suffix, _) in found.items()}
        return {"records": [records_file(count) for count in found], "suffixes": suffixes}
