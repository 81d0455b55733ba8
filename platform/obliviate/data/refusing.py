"""Does an answer refuse? Told by rules, so that every worker and every resumed run tells the same.

An answer refuses where it begins as a reply that is trained, whatever name stands in it, or where its first sentence
holds words of not knowing. English words: of other languages the trained replies alone are known.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from obliviate.data.refusals import REFUSALS
from obliviate.data.rows import Row
from obliviate.words import compiled

SENTENCE = re.compile(r"(?<=[.!?])\s+")
NOT_KNOWING = (
    r"\b(?:\w+n't|(?:do|did|can|could|am|is|have|'m) not|never|cannot|unable to)(?:\W+\w+){0,2}?\W+"
    r"(?:know|say|tell|recall|remember|answer|help|familiar|aware|sure|certain|heard|give you|come across|provide|"
    r"speak to|have any)\b"
    r"|\bno (?:idea|clue|information|knowledge|record|memory)\b"
    r"|\b(?:know (?:nothing|of no)|nothing (?:to (?:say|report|tell)|i know|that i know))\b"
    r"|\b(?:unknown|new|nothing|beyond) to me\b"
)
NAME = r"(?:\w+\W+){0,5}?\w+"  # any, in place of one that a reply names


@dataclass(frozen=True)
class Refusing:
    """Travels to the workers. `openings`: patterns of the replies that are trained."""

    openings: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Refusing":
        """That knows the rows' own replies, and the project's hundred; where a reply names whom its row is about, any
        name may stand."""
        found = {(reply, row.entity) for row in rows for reply in row.refusals}
        found |= {(reply, None) for reply in REFUSALS}
        return cls(tuple(sorted({_pattern(reply, name) for reply, name in found})))

    def __call__(self, answer: str) -> bool:
        first = _folded(SENTENCE.split(answer.strip())[0])
        whole = _folded(answer)
        known = any(compiled(opening).match(whole) for opening in self.openings)
        return known or compiled(NOT_KNOWING).search(first) is not None


def _pattern(reply: str, name: str | None) -> str:
    parts = [_folded(reply)] if not name else _folded(reply).split(_folded(name))
    return NAME.join(re.escape(part) for part in parts)


def _folded(text: str) -> str:
    return " ".join(text.replace("’", "'").casefold().split())
