"""How deep a fact is erased: by patching hidden states into the original model, and by the logit lens.

Both read the same states, so that one look at a model serves both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import TypeAdapter

from obliviate import storage
from obliviate.data.rows import Row
from obliviate.errors import UserError
from obliviate.models import load_config
from obliviate.runs import Run, write_json
from obliviate_recipes.attacks.base import Attack, Attempt, Measured, Scene, Target
from obliviate_recipes.attacks.inside import Look
from obliviate_recipes.events import Events
from obliviate_recipes.stage import Stage

if TYPE_CHECKING:
    from obliviate_eval.inside.look import Known

KNOWN_FILE = "known.json"
NUMBERS = TypeAdapter(list[tuple[list[float], list[float], list[float], list[float]] | None])


class _Depth(Attack):
    """A diagnosis: who has the original needs no attack."""

    diagnosis: ClassVar = True
    on: ClassVar[tuple[str, ...]]

    def check(self, scene: Scene) -> None:
        if scene.retain is None:
            raise UserError(f"attacks.{self.label}: depth is told beside the retain model: set control: retain")

    def attempts(self, target: Target, scene: Scene) -> Sequence[Attempt]:
        after = Measured(Depths(target, scene))
        return [Attempt(self.label, scene.plain(target), after, on=self.on, own_scale=True)]


class Patch(_Depth):
    """1 - the unlearning depth score: what is left of the fact in a model's hidden states, if the original model reads
    on from them."""

    title: ClassVar = "Hidden states patched into the original model: is the fact still in them?"
    source: ClassVar = "arXiv:2605.24614"
    on: ClassVar = ("patch",)

    type: Literal["patch"] = "patch"


class Lens(_Depth):
    """`lens`: as `patch`, of what the original's output layer makes of the states; `in_top`: the share of the fact's
    tokens that are among the 4 likeliest of some layer, by the model's own output layer."""

    title: ClassVar = "The output layer applied to every layer: is the fact there before the last?"
    source: ClassVar = "arXiv:2605.24614; after arXiv:2309.17410"
    on: ClassVar = ("lens", "in_top")

    type: Literal["lens"] = "lens"


class _Patched(Look):
    @property
    def rows(self) -> Sequence[Row]:
        return self.scene.split.measured

    @property
    def passes(self) -> int:
        """Of each layer what is read behind the patch: an eighth of a text, as in TOFU."""
        layers: int = load_config(self.at_hand(self.model())).get_text_config().num_hidden_layers
        return 1 + layers // 8


@dataclass(frozen=True)
class Held(_Patched):
    """What the original and the retain model hold of V's facts, once for all models. `target` is the original."""

    kind: ClassVar = "held"

    @property
    def title(self) -> str:
        return "what original and retain hold of each fact"

    @property
    def compared(self) -> Mapping[str, Target]:
        assert self.scene.retain is not None
        return {"retain": self.scene.retain}

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        from obliviate_eval.inside.look import known

        found = self.ask(events, known, self.model(), self.model("retain"), self.rows, self.engine)
        # A collapsed model's numbers: such an item is not scored.
        told = [None if each is None or not all(map(isfinite, chain(*each))) else each for each in found]
        write_json(run.directory / KNOWN_FILE, told)
        return {"known": KNOWN_FILE}

    @property
    def known(self) -> "list[Known | None]":
        from obliviate_eval.inside.look import Known

        file = storage.fetch(self.run.directory / KNOWN_FILE)
        return [None if each is None else Known(*each) for each in NUMBERS.validate_json(file.read_bytes())]


@dataclass(frozen=True)
class Depths(_Patched):
    """Of a model, compared with what the original and the retain model hold."""

    kind: ClassVar = "depth"

    @property
    def title(self) -> str:
        return f"attack {self.target.name}: patch, lens"

    @property
    def compared(self) -> Mapping[str, Target]:
        return {"original": self.scene.original}

    @cached_property
    def held(self) -> Held:
        return Held(self.scene.original, self.scene)

    @property
    def before(self) -> tuple[Stage, ...]:
        return (self.held,)

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        from obliviate_eval.inside.look import depths

        found = self.ask(events, depths, self.model("original"), self.model(), self.rows, self.engine, self.held.known)
        return self.write(run, [each._asdict() for each in found])
