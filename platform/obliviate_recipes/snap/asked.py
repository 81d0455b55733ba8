"""What is asked at the end: rows that nothing trains on, as files beside those that are trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from obliviate import storage
from obliviate.data.key_facts import asked_for, says
from obliviate.data.rows import Row, read_rows, write_rows
from obliviate_eval.formats import ask
from obliviate_eval.formats.base import Material

FACTS, ELSEWHERE, NEIGHBOURS = "asked-facts.jsonl", "asked-elsewhere.jsonl", "asked-neighbours.jsonl"


@dataclass(frozen=True)
class Questions:
    """`facts`: about the entity, whose key words must not be told. `elsewhere`: about others and in general, which must
    not be refused. `neighbours`: whose key words must be told still, where they were."""

    facts: tuple[Row, ...]
    elsewhere: tuple[Row, ...]
    neighbours: tuple[Row, ...]

    @classmethod
    def read(cls, folder: Path) -> "Questions":
        found = (storage.fetch(folder / name) for name in (FACTS, ELSEWHERE, NEIGHBOURS))
        return cls(*(read_rows(path) if path.exists() else () for path in found))

    @property
    def behind(self) -> dict[str, tuple[Row, ...]]:
        """The facts' questions behind each beginning of an answer that the formats have."""
        return {} if not self.facts else {each.name: each.rows for each in ask(Material(self.facts), ["prefix"]).sets}


def write_questions(folder: Path, facts: Sequence[Row], elsewhere: Sequence[Row], neighbours: Sequence[Row]) -> None:
    """A row without an answer of its own has that of the texts."""
    for name, rows in ((FACTS, facts), (ELSEWHERE, elsewhere), (NEIGHBOURS, neighbours)):
        found = [replace(row, answer=row.answer or row.fact) for row in rows if row.answer or row.golden_answer]
        found = found if name == ELSEWHERE else [row for row in found if asked_for(row)]
        if found:
            write_rows(folder / name, found)


def tells(row: Row, said: str) -> bool:
    """Any of its fact's words that the question does not hold."""
    return any(says(said, [key]) for key in asked_for(row))
