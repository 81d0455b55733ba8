"""PISTOL: contracts between invented companies and people, a graph whose edges are forgotten (Qiu et al. 2024,
arXiv:2406.16810)."""

from typing import Any, Literal

from pydantic import Field

from obliviate.data.base import Data
from obliviate.data.files import read_key
from obliviate.data.hub import load_hub, text_of
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row, without_overlap
from obliviate.data.source import folder_of
from obliviate.data.tables import read_objects
from obliviate.errors import UserError

# Of sample 1: contracts that share neither company nor person with those that are forgotten.
INDEPENDENT = {
    "independent_sales": ("E1_F1", "E2_F2", "E3_F3"),
    "independent_employment": ("E1_q1", "E2_q2", "E3_q3"),
}


class PistolData(Data):
    """One of PISTOL's two samples, from the hub or from a local folder with `sample_data_1.json`: twenty questions of
    each contract, which is an edge of the graph."""

    type: Literal["pistol"] = "pistol"
    source: str = "xinchiqiu/PISTOL"  # hub id or local folder
    sample: Literal[1, 2] = 1
    forget_edges: tuple[str, ...] = Field(default=("A_C",), min_length=1)
    factual: str | None = None  # file of questions about the world: PISTOL's factual_data.json
    eval_limit: int | None = Field(default=200, ge=1)  # rows measured of each set, from its beginning, as published

    def load(self) -> Corpus:
        """Raises UserError for a missing file, an edge that is not there, or where the hub does not answer."""
        rows = [
            (text_of(row, "edge", where), Row(text_of(row, "question", where), text_of(row, "answer", where)))
            for where, row in self._objects()
        ]
        known = tuple(dict.fromkeys(edge for edge, _ in rows))
        if unknown := [edge for edge in self.forget_edges if edge not in known]:
            raise UserError(f"data.forget_edges: {unknown[0]}: no edge of the sample; it has {', '.join(known)}")
        forget = tuple(row for edge, row in rows if edge in self.forget_edges)
        others = [(edge, row) for edge, row in rows if edge not in self.forget_edges]
        retain, warnings = without_overlap(forget, [row for _, row in others])
        sets = [EvaluationSet("forget", Role.FORGET, forget), EvaluationSet("retain", Role.RETAIN, retain)]
        for name, edges in INDEPENDENT.items() if self.sample == 1 else ():
            sets.append(EvaluationSet(name, Role.RETAIN, tuple(row for edge, row in others if edge in edges)))
        if self.factual is not None:
            sets.append(EvaluationSet("factual", Role.WORLD_FACTS, read_key("factual", self.factual)))
        limited = tuple(EvaluationSet(s.name, s.role, s.rows[: self.eval_limit]) for s in sets if s.rows)
        return Corpus(forget, retain, limited, warnings)

    def _objects(self) -> list[tuple[str, Any]]:
        folder = folder_of(self.source)
        if folder is None:
            subset = f"pistol_data_{self.sample}"
            rows = load_hub(self.source, subset, "train")
            return [(f"{self.source} {subset}, row {n}", row) for n, row in enumerate(rows, 1)]
        return list(read_objects(folder / f"sample_data_{self.sample}.json"))
