"""Which texts a request is about: rows of the data that the model was taught, known by their hashes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from obliviate.data.rows import Corpus, EvaluationSet, Role, Row, read_rows
from obliviate.errors import UserError
from obliviate.runs import content_hash


def text_hash(row: Row) -> str:
    """SHA-256 of question and answer, white space aside. Whoever guesses a text can recognise its hash."""
    return content_hash(list(row.key))


@dataclass(frozen=True)
class Knowledge:
    """All rows that the model was taught. A row that is measured with paraphrases is kept with them."""

    rows: dict[str, Row]  # hash -> row
    kept_sets: tuple[EvaluationSet, ...]  # what utility is measured on

    @classmethod
    def of(cls, corpus: Corpus) -> "Knowledge":
        taught = {text_hash(row): row for row in (*corpus.forget, *corpus.retain)}
        measured = {text_hash(row): row for each in corpus.evaluation for row in each.rows}
        kept = tuple(each for each in corpus.evaluation if each.role is not Role.FORGET)
        return cls({each: measured.get(each, row) for each, row in taught.items()}, kept)

    def find(self, texts: Path | None, entity: str | None) -> list[str]:
        """Hashes of the rows of the file `texts`, or of all rows about `entity`.

        Raises UserError where both or none is given, and for a text or an entity that the data does not have.
        """
        if (texts is None) == (entity is None):
            raise UserError("request: give either --texts FILE or --entity NAME")
        if texts is not None:
            asked = read_rows(texts)
            for number, row in enumerate(asked, 1):
                if text_hash(row) not in self.rows:
                    raise UserError(
                        f"{texts}: text {number} ({(row.question or row.answer)[:60]!r}) is not in the data that the "
                        "model was taught; give question and answer as `data` has them"
                    )
            return [text_hash(row) for row in asked]
        found = self._about.get(entity)
        if not found:
            raise UserError(f"request: no row of the data is about the entity {entity!r}; give --texts FILE")
        return found

    @cached_property
    def _about(self) -> dict[str | None, list[str]]:
        """Entity -> hashes of the rows about it."""
        found: dict[str | None, list[str]] = {}
        for each, row in self.rows.items():
            found.setdefault(row.entity, []).append(each)
        return found

    def select(self, hashes: Collection[str]) -> tuple[Row, ...]:
        """Raises UserError where the data has lost one since it was asked for."""
        lost = [each for each in hashes if each not in self.rows]
        if lost:
            raise UserError(
                f"data: {len(lost)} of {len(hashes)} texts of a request are not in it any more (SHA-256 {lost[0]}); "
                "put them back until the request is fulfilled"
            )
        return tuple(self.rows[each] for each in hashes)

    def without(self, hashes: Collection[str]) -> tuple[Row, ...]:
        return tuple(row for each, row in self.rows.items() if each not in hashes)

    def kept_without(self, hashes: Collection[str]) -> list[EvaluationSet]:
        """What utility is measured on, once these texts are to be forgotten."""
        return [
            EvaluationSet(each.name, each.role, rows)
            for each in self.kept_sets
            if (rows := _without(each.rows, hashes))
        ]


def repeats(hashes: Sequence[str]) -> list[str]:
    """What a user is told where texts of one request are the same."""
    repeated = len(hashes) - len(set(hashes))
    if not repeated:
        return []
    return [
        f"{repeated} of {len(hashes)} texts repeat others, but for white space, case and how letters are composed: "
        "each is taken once"
    ]


def _without(rows: Sequence[Row], hashes: Collection[str]) -> tuple[Row, ...]:
    return tuple(row for row in rows if text_hash(row) not in hashes)
