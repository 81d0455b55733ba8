"""The rows that an attack trains or optimises on, T, and those that are measured, V: no fact is in both.

An attack that teaches the fact that it then finds proves nothing (arXiv:2410.08827, arXiv:2506.00688).
"""

from dataclasses import dataclass
from random import Random
from typing import Literal

from pydantic import Field

from obliviate.data.rows import Corpus, EvaluationSet, Role, Row
from obliviate.errors import UserError
from obliviate.schema import Seed, Spec

FORGET = "forget"  # the set of V


class SplitSpec(Spec):
    """auto: by entity where the forget rows name several, else by row."""

    by: Literal["auto", "entity", "row"] = "auto"
    share: float = Field(default=0.5, gt=0, lt=1)  # of the entities, or rows, that are T
    seed: Seed = 0


@dataclass(frozen=True)
class Split:
    """`attacked` is T; `measured` is V, as evaluation asks it; `retain` are the retain rows that attacks may use."""

    by: Literal["entity", "row"]
    attacked: tuple[Row, ...]
    measured: tuple[Row, ...]
    retain: tuple[Row, ...]

    @classmethod
    def of(cls, corpus: Corpus, spec: SplitSpec) -> "Split":
        """Raises UserError where one side would be empty."""
        by = _by(corpus.forget, spec)
        asked = tuple(dict.fromkeys(row for each in corpus.evaluation if each.role is Role.FORGET for row in each.rows))
        units = sorted({_unit(row, by) for row in corpus.forget})
        size = min(max(round(spec.share * len(units)), 1), len(units) - 1)
        drawn = set(Random(spec.seed).sample(units, size)) if size > 0 else set[str]()
        attacked = tuple(row for row in corpus.forget if _unit(row, by) in drawn)
        measured = tuple(row for row in asked if _unit(row, by) in set(units) - drawn)
        if not attacked or not measured:
            raise UserError(
                f"split: {len(units)} of data's forget rows, by {by}, leave {len(attacked)} to attack with and "
                f"{len(measured)} to measure; give more rows, or another split.by or split.share"
            )
        return cls(by, attacked, measured, corpus.retain)

    def corpus(self, whole: Corpus) -> Corpus:
        """What is measured: V, and what was to be kept."""
        kept = (each for each in whole.evaluation if each.role not in (Role.FORGET, Role.HOLDOUT))
        sets = (EvaluationSet(FORGET, Role.FORGET, self.measured), *kept)
        return Corpus(whole.forget, whole.retain, sets, whole.warnings, whole.only_measured)


def _by(forget: tuple[Row, ...], spec: SplitSpec) -> Literal["entity", "row"]:
    entities = {row.entity for row in forget}
    if spec.by == "entity" and (None in entities or len(entities) < 2):
        nameless = sum(row.entity is None for row in forget)
        raise UserError(
            f"split.by: entity: the forget rows name {len(entities - {None})}, and {nameless} of them none; give each "
            "row its entity, two at least, or set split.by: row"
        )
    return "entity" if spec.by != "row" and None not in entities and len(entities) > 1 else "row"


def _unit(row: Row, by: Literal["entity", "row"]) -> str:
    """What goes to one side as a whole. A row is known by its question: evaluation may give it another answer."""
    return str(row.entity) if by == "entity" else " ".join((row.question or row.answer).casefold().split())
