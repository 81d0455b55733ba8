"""Optimised embeddings behind every question: what no text could spell."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from obliviate.runs import Run
from obliviate_recipes.attacks.base import Scene, Target
from obliviate_recipes.attacks.optimised import Iterations, Optimised, OptimisedOn
from obliviate_recipes.events import Events


class Embedding(Optimised):
    """The same control tokens for all questions, optimised for the beginnings of T's answers and tried on V."""

    title: ClassVar = "Embeddings behind the question, optimised on T"
    source: ClassVar = "arXiv:2402.09063"

    type: Literal["embedding"] = "embedding"
    step: float = Field(default=1e-3, gt=0)  # of each number of an embedding, in an iteration
    iterations: Iterations = (10, 100)

    def stage(self, target: Target, scene: Scene) -> "Embedded":
        return Embedded(target, scene, self)


@dataclass(frozen=True)
class Embedded(OptimisedOn):
    kind: ClassVar = "embedding"

    attack: Embedding

    @property
    def passes(self) -> int:
        return 3 * self.attack.iterations[-1]  # a backward pass is two forward passes

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        from obliviate_eval.inside.look import Optimising, with_embeddings

        attack = self.attack
        how = Optimising(attack.tokens, attack.step, attack.iterations, attack.target_tokens)
        found = self.ask(events, with_embeddings, self.model(), self.rows, self.engine, how, *self.asked)
        return self.written(run, found)
