"""Quantising: what comes back when the model is rounded to the few bits that it is deployed in."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from obliviate.quantise import Format, quantise
from obliviate_recipes.attacks.base import Attack, Attempt, Scene, Target, each_once
from obliviate_recipes.attacks.distance import Distance
from obliviate_recipes.attacks.rewritten import Rewritten
from obliviate_recipes.stage import Stage


class Quantise(Attack):
    """Every linear layer but the output layer, each weight rounded to the nearest code: no texts, and no training."""

    title: ClassVar = "Rounded to 16, 8 or 4 bits"
    source: ClassVar = "arXiv:2410.16454, arXiv:2605.02196"

    type: Literal["quantise"] = "quantise"
    formats: Annotated[tuple[Format, ...], AfterValidator(each_once)] = Field(
        default=("bf16", "int8", "int4_g128", "nf4", "fp4"), min_length=1
    )

    def attempts(self, target: Target, scene: Scene) -> Sequence[Attempt]:
        stages = [Quantised(target, scene.runs, to) for to in self.formats]
        return [scene.changed(target, f"{self.label} {stage.to}", stage) for stage in stages]

    def beside(self, target: Target, scene: Scene) -> Sequence[Stage]:
        return () if target == scene.original else (Distance(target, scene.original, scene.runs),)


@dataclass(frozen=True)
class Quantised(Rewritten):
    kind: ClassVar = "quantise"

    to: Format

    @property
    def change(self) -> str:
        return self.to

    def rewrite(self, source: Path) -> None:
        quantise(source, self.to, self.folder)
