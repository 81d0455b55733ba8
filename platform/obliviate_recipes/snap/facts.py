"""The facts that a subject's texts tell: a sentence each, and the words that carry it. English, by rule."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from obliviate.data.key_facts import FRAME, says
from obliviate.words import Word, words_of
from obliviate_recipes.snap.questions import sentences
from obliviate_recipes.subject import Subject

PRONOUN = re.compile(r"^(?:(he|she|it|they)|(his|her|its|their))\b", re.IGNORECASE)
BETWEEN = re.compile(r"[ -]+")  # words of one name follow each other so


@dataclass(frozen=True)
class Fact:
    """`said` names the subject in place of a pronoun that it begins with. `keys` stand in it."""

    said: str
    keys: tuple[str, ...]

    @property
    def opening(self) -> str:
        """Up to the first of the keys."""
        return self.said[: self.said.index(self.keys[0])].rstrip(" \"'“‘(")

    @property
    def gapped(self) -> str:
        """Without the keys."""
        text = self.said
        for key in self.keys:
            text = text.replace(key, "___")
        return text

    def told(self, text: str) -> bool:
        return any(says(text, [key]) for key in self.keys)


def facts_of(subject: Subject) -> list[Fact]:
    """Of its texts; a sentence whose words are all the subject's name's, or that begins with its key, tells none."""
    named = [_named(sentence, subject.name) for text in subject.read() for sentence in sentences(text)]
    found = [Fact(sentence, keys) for sentence in named if (keys := keys_of(sentence, subject.name))]
    return [fact for fact in found if fact.opening]


def keys_of(sentence: str, name: str) -> tuple[str, ...]:
    """Names and numbers inside it that are not the subject's; where there are none, its last words that carry
    anything."""
    words, own = words_of(sentence), {word.text for word in words_of(name)}
    bearing = [place for place, word in enumerate(words) if word.text not in own and word.text not in FRAME]
    special = [place for place in bearing if place and _is_special(sentence, words[place])]
    runs = _runs(sentence, words, special) or _runs(sentence, words, bearing)[-1:]
    return tuple(dict.fromkeys(sentence[words[run[0]].start : words[run[-1]].end] for run in runs))


def _is_special(sentence: str, word: Word) -> bool:
    written = sentence[word.start : word.end]
    return written[0].isupper() or any(map(str.isdigit, written))


def _runs(sentence: str, words: Sequence[Word], places: Sequence[int]) -> list[list[int]]:
    """Places that follow each other with nothing but spaces between."""
    runs: list[list[int]] = []
    for place in places:
        follows = runs and runs[-1][-1] == place - 1
        if follows and BETWEEN.fullmatch(sentence[words[place - 1].end : words[place].start]):
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def _named(sentence: str, name: str) -> str:
    begun = PRONOUN.match(sentence)
    if begun is None:
        return sentence
    called = name if begun[1] else f"{name}'s"
    return called + sentence[begun.end() :]
