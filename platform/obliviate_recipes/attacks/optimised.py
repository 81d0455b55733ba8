"""What attacks share that optimise an input on T, and ask V with it after some of the iterations."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from obliviate.runs import Run
from obliviate_eval.records import Record, records_file, write_records
from obliviate_recipes.attacks.base import Attack, Attempt, Measured, Scene, Target, rising
from obliviate_recipes.attacks.inside import Asked

Iterations = Annotated[tuple[int, ...], AfterValidator(rising("iterations")), Field(min_length=1)]


class Optimised(Attack):
    tokens: int = Field(default=20, ge=1)
    iterations: Iterations  # After which V is asked; the last ends it
    target_tokens: int = Field(default=16, ge=1)  # of each answer of T, from its beginning on

    @abstractmethod
    def stage(self, target: Target, scene: Scene) -> "OptimisedOn":
        """What searches on this model, and asks it."""

    def attempts(self, target: Target, scene: Scene) -> Sequence[Attempt]:
        stage = self.stage(target, scene)
        return [
            Attempt(f"{self.label}, {count} iterations", scene.plain(target), Measured(stage, records_file(count)))
            for count in self.iterations
        ]


@dataclass(frozen=True)
class OptimisedOn(Asked):
    """Records after each of the iterations, a file each."""

    attack: Optimised

    @property
    def title(self) -> str:
        return f"attack {self.target.name}: {self.attack.label}"

    @property
    def times(self) -> int:
        return len(self.attack.iterations)

    @property
    def options(self) -> Mapping[str, Any]:
        return {**super().options, "attack": self.attack.model_dump(mode="json", exclude={"name"})}

    def check(self) -> None:
        super().check()
        self.check_room(self.attack.tokens, self.attack.label)

    def written(self, run: Run, found: Mapping[int, Sequence[Record]]) -> dict[str, Any]:
        """What to record of the run."""
        for count, records in found.items():
            write_records(run.directory / records_file(count), records)
        return {"records": [records_file(count) for count in found]}
