"""Quantising: what comes back when the model is rounded to the few bits that it is deployed in."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from obliviate.models import skeleton
from obliviate.prune import measured_layers
from obliviate.quantise import INTEGERS, PLAIN, Format, quantise
from obliviate_recipes.attacks.base import Attack, Attempt, Scene, Target, each_once
from obliviate_recipes.attacks.distance import Distance
from obliviate_recipes.attacks.reading import Reading, require_texts
from obliviate_recipes.attacks.rewritten import Rewritten
from obliviate_recipes.stage import Stage

NEAREST: tuple[Format, ...] = ("bf16", "int8", "int4_g128", "nf4", "fp4")
CALIBRATED: tuple[Format, ...] = ("int4_g128",)


class Quantise(Attack):
    """Every linear layer but the output layer: each weight rounded to the nearest code, no texts and no training; or by
    GPTQ or AWQ, which keep what the layers say on the retain set's texts."""

    title: ClassVar = "Rounded to 16, 8 or 4 bits"
    source: ClassVar = "arXiv:2410.16454, arXiv:2605.02196; GPTQ arXiv:2210.17323, after AWQ arXiv:2306.00978"

    type: Literal["quantise"] = "quantise"
    by: Literal["nearest", "gptq", "awq"] = "nearest"
    # None: bf16, int8, int4_g128, nf4, fp4; by gptq or awq: int4_g128
    formats: Annotated[tuple[Format, ...], AfterValidator(each_once), Field(min_length=1)] | None = None
    rows: int = Field(default=32, ge=1)  # of the retain set that gptq and awq read, drawn by the seed; of fewer: all

    @model_validator(mode="after")
    def _has_steps(self) -> Self:
        unlike = [each for each in self.formats or () if self.by != "nearest" and each not in INTEGERS]
        if unlike:
            raise ValueError(f"formats: {unlike[0]}: {self.by} rounds to {' and '.join(INTEGERS)}; give these alone")
        return self

    @property
    def label(self) -> str:
        return self.name or (self.type if self.by == "nearest" else f"{self.type} {self.by}")

    def check(self, scene: Scene) -> None:
        if self.by != "nearest":
            require_texts(scene, self.type, self.by, instead="nearest")

    def attempts(self, target: Target, scene: Scene) -> Sequence[Attempt]:
        if self.by == "nearest":
            stages: list[Quantised] = [Quantised(target, scene.runs, to) for to in self._formats]
        else:
            reading = Reading.of(scene, self.rows)
            stages = [Calibrated(target, scene.runs, to, self.by, reading) for to in self._formats]
        return [scene.changed(target, f"{self.label} {stage.to}", stage) for stage in stages]

    def beside(self, target: Target, scene: Scene) -> Sequence[Stage]:
        codes = tuple(each for each in self._formats if each not in PLAIN)
        return () if target == scene.original else (Distance(target, scene.original, codes, scene.runs),)

    @property
    def _formats(self) -> tuple[Format, ...]:
        return self.formats or (NEAREST if self.by == "nearest" else CALIBRATED)


@dataclass(frozen=True)
class Quantised(Rewritten):
    kind: ClassVar = "quantise"

    to: Format

    @property
    def change(self) -> str:
        return self.to

    def rewrite(self, source: Path) -> None:
        quantise(source, self.to, self.folder)


@dataclass(frozen=True)
class Calibrated(Quantised):
    by: Literal["gptq", "awq"]
    reading: Reading

    @property
    def change(self) -> str:
        return f"{self.by}-{self.to}"

    @property
    def settings(self) -> dict[str, Any]:
        return {"change": self.change, "texts": self.reading.content, "dtype": self.reading.dtype}

    def check(self) -> None:
        super().check()
        measured_layers(skeleton(self.at_hand(self.base)))

    def rewrite(self, source: Path) -> None:
        from obliviate.calibrated import calibrated

        model, texts = self.reading.opened(self.base)
        quantise(source, self.to, self.folder, calibrated(model, texts, self.to, self.by))
