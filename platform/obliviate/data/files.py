"""The user's own files as data: what to forget, and where they have it, what to keep and what to measure on."""

from typing import Literal

from pydantic import Field

from obliviate.data.rows import Corpus, EvaluationSet, Role, read_rows, without_overlap
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
    evaluation: dict[str, EvaluationFile] | None = None  # name of the set -> its file and what it is for
    eval_limit: int | None = Field(300, ge=1)  # rows measured of each evaluation set, from its beginning

    def load(self) -> Corpus:
        """Raises UserError for a file that is missing, empty or unreadable."""
        forget = read_rows(self.forget)
        retain, warnings = without_overlap(forget, () if self.retain is None else read_rows(self.retain))
        if self.evaluation is None:
            sets = [EvaluationSet("forget", Role.FORGET, forget), EvaluationSet("retain", Role.RETAIN, retain)]
        else:
            sets = [EvaluationSet(name, file.role, read_rows(file.path)) for name, file in self.evaluation.items()]
        limited = tuple(EvaluationSet(s.name, s.role, s.rows[: self.eval_limit]) for s in sets if s.rows)
        return Corpus(forget, retain, limited, warnings)
