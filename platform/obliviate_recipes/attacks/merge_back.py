"""Merging back: how much of the way to the original's weights brings back what was forgotten."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from obliviate.arithmetic import interpolate
from obliviate.schema import ModelSpec
from obliviate_recipes.attacks.base import Attack, Attempt, Scene, Target
from obliviate_recipes.attacks.rewritten import Rewritten, Shares
from obliviate_recipes.stage import Stage, original_weights


class MergeBack(Attack):
    """W + t (W of the original - W), at several shares t.

    A diagnosis: who has the original needs no attack. If little of the way brings back much, what was forgotten lies
    near, and the retain model, drawn as far, tells how much of it the original's weights bring along.
    """

    title: ClassVar = "Mixed with the original's weights"
    source: ClassVar = "arXiv:2406.09179"

    diagnosis: ClassVar = True

    type: Literal["merge_back"] = "merge_back"
    shares: Shares = (0.1, 0.25, 0.5)

    def attempts(self, target: Target, scene: Scene) -> Sequence[Attempt]:
        plain = scene.plain(target)
        found = []
        for share in self.shares:
            setting = f"{self.label} {share:g}"
            if target == scene.original:  # which it leaves as it is
                found.append(Attempt(setting, plain, plain, changes=True))
            else:
                found.append(scene.changed(target, setting, Merged(target, scene.runs, share, scene.original)))
        return found


@dataclass(frozen=True)
class Merged(Rewritten):
    kind: ClassVar = "merge"

    share: float
    original: Target

    @property
    def change(self) -> str:
        return f"merge-{self.share:g}"

    @property
    def models(self) -> dict[str, ModelSpec]:
        return {"model": self.base, "original": self.original.model}

    @property
    def needs(self) -> tuple[Stage, ...]:
        return (*self.target.needs, *self.original.needs)

    def rewrite(self, source: Path) -> None:
        original = original_weights(self.original.model, self.runs)
        interpolate(original, source, 1 - self.share, self.folder)
