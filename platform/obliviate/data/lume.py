"""LUME: creative texts, invented and real biographies (Ramakrishna et al. 2025, arXiv:2502.15097; SemEval-2025)."""

import re
from typing import Any, Literal

from pydantic import Field

from obliviate.data.base import Data
from obliviate.data.hub import load_file, load_hub, load_objects, text_of
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row, without_overlap
from obliviate.data.source import folder_of
from obliviate.errors import UserError

TASKS = ("task1", "task2", "task3")  # creative texts, invented biographies with personal data, real biographies
KINDS = ("sc", "qa")  # sentences to be completed, questions
KIND = re.compile(r"(sc|qa)\d+$")  # how a row's id ends
MEMBERS = (("member", Role.FORGET), ("nonmember", Role.HOLDOUT))  # whole documents, for membership inference


class LumeData(Data):
    """LUME's files, from the hub or from a local folder: SemEval's, where forget and retain set have a fold to train on
    and one to choose by, or those of LUME's own repository, which has both together (`fold: null`).

    Sentences to be completed and questions stand as they are: set `model.chat_template: raw`. The documents for
    membership inference are only in SemEval's files; they are long: raise `model.max_length`.
    """

    type: Literal["lume"] = "lume"
    source: str = "llmunlearningsemeval2025organization/semeval25-unlearning-dataset-public"  # hub id or local folder
    fold: Literal["train", "validation"] | None = "train"
    # Whether the documents for membership inference are measured; None: where the source has them.
    membership: bool | None = None
    eval_limit: int | None = Field(default=None, ge=1)  # rows measured of each set, from its beginning

    def load(self) -> Corpus:
        """Raises UserError for a missing file, a row of neither kind, or where the hub does not answer."""
        forget, retain = self._rows("forget"), self._rows("retain")
        sets = [
            EvaluationSet(f"{part}_{task}_{kind}", role, tuple(row for at, row in rows if at == (task, kind)))
            for part, role, rows in (("forget", Role.FORGET, forget), ("retain", Role.RETAIN, retain))
            for task in TASKS
            for kind in KINDS
        ]
        if self._has_members if self.membership is None else self.membership:
            sets += [EvaluationSet(name, role, self._documents(name)) for name, role in MEMBERS]
        limited = tuple(EvaluationSet(s.name, s.role, s.rows[: self.eval_limit]) for s in sets if s.rows)
        forgotten = tuple(row for _, row in forget)
        kept, warnings = without_overlap(forgotten, [row for _, row in retain])
        return Corpus(forgotten, kept, limited, warnings)

    def _rows(self, part: str) -> list[tuple[tuple[str, str], Row]]:
        """Each with its task and kind."""
        split = part if self.fold is None else f"{part}_{self.fold}"
        if folder_of(self.source) is not None:
            objects = load_objects(self.source, "data", split)
        else:
            found = load_hub(self.source, "default", split)
            objects = [(f"{self.source} {split}, row {n}", row) for n, row in enumerate(found, 1)]
        return [
            (_place(row, where), Row(text_of(row, "input", where), text_of(row, "output", where)))
            for where, row in objects
        ]

    def _documents(self, name: str) -> tuple[Row, ...]:
        if folder_of(self.source) is not None:
            objects = load_objects(self.source, "mia_data", name)
        else:
            objects = load_file(self.source, f"mia_data/{name}.jsonl")
        return tuple(Row("", text_of(row, "document", where)) for where, row in objects)

    @property
    def _has_members(self) -> bool:
        folder = folder_of(self.source)
        return folder is None or (folder / "mia_data").is_dir()


def _place(row: Any, where: str) -> tuple[str, str]:
    """Task and kind. Raises UserError for a row of another data set."""
    task, kind = text_of(row, "task", where).lower(), KIND.search(text_of(row, "id", where))
    if task not in TASKS or kind is None:
        raise UserError(
            f"{where}: has the task {row['task']!r} and the id {row['id']!r}, not Task1 to Task3 and sc or qa with a "
            "number; give LUME's own files"
        )
    return task, kind[1]
