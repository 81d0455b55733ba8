"""Optimised embeddings behind every question: what no text could spell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from obliviate.runs import Run
from obliviate_eval.records import records_file, write_records
from obliviate_recipes.attacks.base import Attack, Attempt, Measured, Scene, Target, rising
from obliviate_recipes.attacks.inside import Asked
from obliviate_recipes.events import Events


class Embedding(Attack):
    """The same control tokens for all questions, optimised for the beginnings of T's answers and tried on V."""

    title: ClassVar = "Embeddings behind the question, optimised on T"
    source: ClassVar = "arXiv:2402.09063"

    type: Literal["embedding"] = "embedding"
    tokens: int = Field(default=20, ge=1)
    step: float = Field(default=1e-3, gt=0)  # of each number of an embedding, in an iteration
    # After which V is asked; the last ends it
    iterations: Annotated[tuple[int, ...], AfterValidator(rising("iterations"))] = Field(
        default=(10, 100), min_length=1
    )
    target_tokens: int = Field(default=16, ge=1)  # of each answer of T, from its beginning on

    def attempts(self, target: Target, scene: Scene) -> Sequence[Attempt]:
        stage = Embedded(target, scene, self)
        return [
            Attempt(f"{self.label}, {count} iterations", scene.plain(target), Measured(stage, records_file(count)))
            for count in self.iterations
        ]


@dataclass(frozen=True)
class Embedded(Asked):
    kind: ClassVar = "embedding"

    attack: Embedding

    @property
    def title(self) -> str:
        return f"attack {self.target.name}: {self.attack.label}"

    @property
    def passes(self) -> int:
        return 3 * self.attack.iterations[-1]  # a backward pass is two forward passes

    @property
    def times(self) -> int:
        return len(self.attack.iterations)

    @property
    def options(self) -> Mapping[str, Any]:
        return {**super().options, "attack": self.attack.model_dump(mode="json", exclude={"name"})}

    def check(self) -> None:
        super().check()
        self.check_room(self.attack.tokens, self.attack.label)

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        from obliviate_eval.inside.look import Optimising, with_embeddings

        attack = self.attack
        how = Optimising(attack.tokens, attack.step, attack.iterations, attack.target_tokens)
        found = self.ask(events, with_embeddings, self.model(), self.rows, self.engine, how, *self.asked)
        for count, records in found.items():
            write_records(run.directory / records_file(count), records)
        return {"records": [records_file(count) for count in found]}
