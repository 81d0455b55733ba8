"""The user's own files as data: what to forget, and where they have it, what to keep and what to measure on."""

from typing import Literal

from pydantic import Field

from obliviate.data.rows import Corpus, EvaluationSet, Role, Row, read_rows, without_overlap
from obliviate.errors import UserError
from obliviate.schema import Spec


class EvaluationFile(Spec):
    path: str
    role: Role


class FilesData(Spec):
    """Local JSON, JSON-lines or Parquet files, with the keys of `rows.Row`.

    Without `evaluation`, what is trained on is what is measured on.
    """

    type: Literal["files"] = "files"
    forget: str
    retain: str | None = None  # methods with a retain term need one
    holdout: str | None = None  # like the forget set, never trained on: for membership inference
    # Name of the set -> its file and what it is for.
    evaluation: dict[str, EvaluationFile] | None = Field(None, min_length=1)
    eval_limit: int | None = Field(300, ge=1)  # rows measured of each evaluation set, from its beginning

    def load(self) -> Corpus:
        """Raises UserError for a file that is missing, empty or unreadable."""
        forget = read_key("forget", self.forget)
        retain, warnings = without_overlap(forget, () if self.retain is None else read_key("retain", self.retain))
        if self.evaluation is None:
            sets = [EvaluationSet("forget", Role.FORGET, forget), EvaluationSet("retain", Role.RETAIN, retain)]
        else:
            sets = [
                EvaluationSet(name, file.role, read_key(f"evaluation.{name}.path", file.path))
                for name, file in self.evaluation.items()
            ]
        if self.holdout is not None:
            sets.append(EvaluationSet("holdout", Role.HOLDOUT, read_key("holdout", self.holdout)))
        limited = tuple(EvaluationSet(s.name, s.role, s.rows[: self.eval_limit]) for s in sets if s.rows)
        return Corpus(forget, retain, limited, warnings)


def read_key(key: str, path: str) -> tuple[Row, ...]:
    """The rows of a file, with the config's key in errors."""
    try:
        return read_rows(path)
    except UserError as error:
        raise UserError(f"data.{key}: {error}") from error
