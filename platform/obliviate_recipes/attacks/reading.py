"""Texts of the retain set that a model reads, to see which of its weights matter to what is kept."""

from random import Random
from typing import TYPE_CHECKING, NamedTuple

from obliviate.data.rows import Row
from obliviate.errors import UserError
from obliviate.models import load_to_read
from obliviate.runs import content_hash
from obliviate.schema import ModelSpec
from obliviate_recipes.attacks.base import Scene

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Reading(NamedTuple):
    texts: tuple[Row, ...]
    dtype: str  # that the model reads them in

    @classmethod
    def of(cls, scene: Scene, rows: int) -> "Reading":
        """So many, drawn by the seed; of fewer: all."""
        texts = Random(scene.seed).sample(scene.split.retain, min(rows, len(scene.split.retain)))
        return cls(tuple(texts), scene.measuring.spec.engine.dtype)

    @property
    def content(self) -> str:
        return content_hash([row.saying(row.answer) for row in self.texts])

    def opened(self, spec: ModelSpec) -> "tuple[PreTrainedModel, list[tuple[int, ...]]]":
        """The model, on a GPU where there is one, and the texts' token ids."""
        model, encoder = load_to_read(spec, self.dtype)
        return model, [encoder.encode_row(row).input_ids for row in self.texts]


def require_texts(scene: Scene, attack: str, by: str, instead: str) -> None:
    """Raises UserError where there is nothing to read."""
    if not scene.split.retain:
        raise UserError(
            f"attacks.{attack}.by: {by}: the data has no retain set, whose texts it reads; give data.retain, or by: "
            f"{instead}"
        )
