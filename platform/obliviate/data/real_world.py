"""Real people whom models know ("A Closer Look", arXiv:2410.08109, section 4.4)."""

from dataclasses import replace
from typing import Literal

from pydantic import Field

from obliviate.data.base import Data
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row, without_overlap
from obliviate.data.source import reader
from obliviate.errors import UserError


class RealWorldData(Data):
    """Twenty people to forget, twenty neighbours to train on, and twenty other neighbours to measure on, with twenty
    questions each: `forget`, `neighbor`, `forget_perturbed`, `neighbor_perturbed`.

    What is kept is measured on people that no step has seen, so that it says whether keeping generalises.
    """

    type: Literal["real_world"] = "real_world"
    source: str  # hub id or local folder
    answers: Literal["original", "golden"] = "original"  # what Llama-3-8B-Instruct said, or the short true answer
    people: int | None = Field(default=None, ge=1)  # of each of the three groups, from the beginning; None: all
    eval_limit: int | None = Field(default=None, ge=1)  # rows measured of each set

    def load(self) -> Corpus:
        """Raises UserError for a missing file, and for a row without the golden answer that is asked for."""
        read = reader(self.source)
        groups = ("forget", "neighbor", "forget_perturbed", "neighbor_perturbed")
        forget, neighbours, forget_measured, neighbours_measured = (self._taken(name, read(name)) for name in groups)
        retain, warnings = without_overlap(forget, neighbours)
        sets = (
            EvaluationSet("forget", Role.FORGET, forget_measured[: self.eval_limit]),
            EvaluationSet("neighbor", Role.RETAIN, neighbours_measured[: self.eval_limit]),
        )
        return Corpus(forget, retain, sets, warnings)

    def _taken(self, name: str, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        people = list(dict.fromkeys(row.entity for row in rows))[: self.people]
        taken = [row for row in rows if row.entity in people]
        if self.answers == "original":
            return tuple(taken)
        for number, row in enumerate(taken, 1):
            if row.golden_answer is None:
                raise UserError(f"data.answers: golden: row {number} of {name} has no golden_answer; set original")
        return tuple(replace(row, answer=row.golden_answer or "") for row in taken)
