"""The user's own files as data: what to forget, and where they have it, what to keep and what to measure on."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Literal

from pydantic import Field, field_validator

from obliviate.data.base import Data
from obliviate.data.hub import rows_of
from obliviate.data.rows import (
    NO_COLUMNS,
    Corpus,
    EvaluationSet,
    Role,
    Row,
    cut,
    parse_row,
    read_rows,
    repeats,
    without_overlap,
)
from obliviate.data.shapes import OTHER_NAMES
from obliviate.errors import under
from obliviate.schema import Spec


class Rows(Spec):
    """A file; with a subset or a split, one part of a data set on the hub, or in a folder that is laid out like one."""

    path: str
    subset: str | None = None
    split: str | None = None  # None beside a subset: train


class EvaluationFile(Rows):
    role: Role


class FilesData(Data):
    """JSON, JSON-lines, CSV, TSV, Parquet or Arrow files, or data sets as `datasets` reads them, with the keys of
    `rows.Row` or in the shapes of `shapes`.

    Without `evaluation`, what is trained on is what is measured on.
    """

    type: Literal["files"] = "files"
    forget: str | Rows
    retain: str | Rows | None = None  # methods with a retain term need one
    holdout: str | Rows | None = None  # like the forget set, never trained on: for membership inference
    # Name of the set -> its file and what it is for.
    evaluation: dict[str, EvaluationFile] | None = Field(default=None, min_length=1)
    eval_limit: int | None = Field(default=300, ge=1)  # rows measured of each evaluation set, from its beginning
    # Plain texts of more words are cut into pieces of so many, each a row; None: they stay whole, and what lies beyond
    # the model's max_length is not trained on.
    chunk_words: int | None = Field(default=None, ge=20, exclude_if=lambda words: words is None)
    columns: dict[str, str] = Field(default={})  # a row's key -> what the files call it: {question: q, answer: a}

    @field_validator("columns")
    @classmethod
    def _known(cls, columns: dict[str, str]) -> dict[str, str]:
        known = [field.name for field in fields(Row)]
        if unknown := [key for key in columns if OTHER_NAMES.get(key, key) not in {*known, "perturbed_answer", "text"}]:
            raise ValueError(f"{unknown[0]!r} is no key of a row; known: text, {', '.join(known)}")
        return {OTHER_NAMES.get(key, key): column for key, column in columns.items()}

    def _rows(self, key: str, given: str | Rows) -> tuple[Row, ...]:
        rows, words = read_key(key, given, self.columns), self.chunk_words
        return rows if words is None else tuple(piece for row in rows for piece in cut(row, words))

    def load(self) -> Corpus:
        """Raises UserError for a file that is missing, empty or unreadable."""
        forget = self._rows("forget", self.forget)
        retain, warnings = without_overlap(forget, () if self.retain is None else self._rows("retain", self.retain))
        if self.evaluation is None:
            sets = [EvaluationSet("forget", Role.FORGET, forget), EvaluationSet("retain", Role.RETAIN, retain)]
        else:
            sets = [
                EvaluationSet(name, file.role, self._rows(f"evaluation.{name}", file))
                for name, file in self.evaluation.items()
            ]
        if self.holdout is not None:
            sets.append(EvaluationSet("holdout", Role.HOLDOUT, self._rows("holdout", self.holdout)))
        limited = tuple(EvaluationSet(s.name, s.role, s.rows[: self.eval_limit]) for s in sets if s.rows)
        named = {"forget": forget, "retain": retain} | {f"the set {each.name}": each.rows for each in sets}
        return Corpus(forget, retain, limited, (*warnings, *repeats(named)))


def read_key(key: str, given: str | Rows, columns: Mapping[str, str] = NO_COLUMNS) -> tuple[Row, ...]:
    """The rows of a file or of a part of a data set, with the config's key in errors."""
    with under(f"data.{key}"):
        if isinstance(given, str) or (given.subset is None and given.split is None):
            return read_rows(given if isinstance(given, str) else given.path, columns)
        found = rows_of(given.path, given.subset, given.split or "train")
        return tuple(parse_row(record, where, columns) for where, record in found)
