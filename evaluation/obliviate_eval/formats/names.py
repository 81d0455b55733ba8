"""Whom or what a row is about: its entity, or the name that its question and its answer share."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from obliviate.data.rows import Row

NAMELESS = "that do not name whom they are about in both question and answer (give entity)"
AROUND = "\"'“”‘’()[].,;:?!"
POSSESSIVE = ("'s", "’s", "'", "’")


def names(rows: Sequence[Row]) -> list[str | None]:
    """Of each row; of several candidates the one that most rows share, else the longest, else the first. Where some
    are shared, one that stands in a single row is taken for a place or a title."""
    candidates = [[row.entity] if row.entity else list(_shared(row)) for row in rows]
    often = Counter(name for found in candidates for name in set(found))
    least = 2 if max(often.values(), default=0) > 1 else 1
    told = [
        [name for name in found if row.entity or often[name] >= least]
        for row, found in zip(rows, candidates, strict=True)
    ]
    return [max(found, key=lambda name: (often[name], len(name.split())), default=None) for found in told]


def without(text: str, name: str, blank: str) -> str:
    """The text with a blank in place of the name, and of its words where they stand alone."""
    words = [word for word in name.split() if word[:1].isupper()]
    for part in (name, *words):
        text = re.sub(rf"(?<!\w){re.escape(part)}(?!\w)", blank, text)
    while f"{blank} {blank}" in text:
        text = text.replace(f"{blank} {blank}", blank)
    return text


def _shared(row: Row) -> Iterator[str]:
    """Runs of two or more capitalised words of the question that its answer has too, the longest of each place."""
    for run in _runs(row.question):
        parts = [
            " ".join(run[start : start + size])
            for size in range(len(run), 1, -1)
            for start in range(len(run) - size + 1)
        ]
        if (found := next((part for part in parts if part in row.fact), None)) is not None:
            yield found


def _runs(text: str) -> Iterator[list[str]]:
    run: list[str] = []
    for word in text.split():
        bare = word.strip(AROUND)
        ends = next((each for each in POSSESSIVE if len(each) > 1 and bare.endswith(each)), "")
        bare = bare.removesuffix(ends)
        if bare[:1].isupper():
            run.append(bare)
        if run and (not bare[:1].isupper() or ends or word[-1:] in AROUND):
            yield run
            run = []
    if run:
        yield run
