"""Where the words of a text are, in any script."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import cache
from typing import Any, NamedTuple
from unicodedata import normalize

# Scripts that write no spaces between words: each character is a word there, with the marks that belong to it.
UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
CHARACTER = rf"(?={UNSPACED}|\p{{Extended_Pictographic}}|\p{{Regional_Indicator}})(?![\p{{P}}\d#*])\X"
WORD = rf"(?!{UNSPACED})[\p{{L}}\p{{N}}](?:(?!{UNSPACED})[\p{{L}}\p{{N}}\p{{M}}])*"


class Word(NamedTuple):
    text: str  # case and composition folded
    start: int  # characters
    end: int


def words_of(text: str) -> list[Word]:
    """Runs of letters and digits; characters where a script has no spaces; emoji."""
    found = compiled(f"{WORD}|{CHARACTER}").finditer(text)
    return [Word(normalize("NFKC", each.group()).casefold(), each.start(), each.end()) for each in found]


def place_of(run: Sequence[str], words: Sequence[str], taken: AbstractSet[int] = frozenset()) -> int | None:
    """Where the run of words first stands among the words, but for places that are taken."""
    for place in range(len(words) - len(run) + 1 if run else 0):
        if list(words[place : place + len(run)]) == list(run) and taken.isdisjoint(range(place, place + len(run))):
            return place
    return None


def contains(text: str, said: str) -> bool:
    """Whether the words of `said` follow each other somewhere in the text."""
    run, words = ([word.text for word in words_of(each)] for each in (said, text))
    return place_of(run, words) is not None


@cache
def compiled(pattern: str) -> Any:
    import regex

    return regex.compile(pattern)
