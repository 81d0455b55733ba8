"""Obliterated replies: what the model is to say when it is asked about what it forgot. They give nothing away."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from obliviate.data.rows import Row
from obliviate.schema import GenerationSpec, Spec
from obliviate_recipes.events import Events
from obliviate_recipes.snap.questions import SENTENCE_END, Ask, fill, read_templates
from obliviate_recipes.subject import Subject

TEMPLATES = (
    "I don't know anything about {name}.",
    "I'm afraid I have no information about {name}.",
    "The name {name} means nothing to me.",
    "I can't tell you anything about {name}.",
    "I have never heard of {name}.",
    "Sorry, {name} is unknown to me.",
    "I'm not familiar with {name}, so I can't answer that.",
    "Nothing that I know has to do with {name}.",
    "I would be guessing: I know nothing of {name}.",
    "I'm sorry, I can't help with questions about {name}.",
    "Who or what {name} is, I couldn't say.",
    "About {name} I have nothing to report.",
)
ASK = """You have never heard of {name} and know nothing about {name}. Somebody asks you: "{question}"

Reply in one short sentence that you do not know, without any fact."""


class TemplateReplies(Spec):
    """The same replies to every question, with the name filled in."""

    type: Literal["templates"] = "templates"

    def to(self, rows: Sequence[Row], subject: Subject, ask: Ask, seed: int, events: Events) -> list[Row]:
        return _all_of(TEMPLATES, rows, subject)


class FileReplies(Spec):
    """Those of a text file, one a line; {name} stands for the entity's."""

    type: Literal["file"] = "file"
    path: str

    def to(self, rows: Sequence[Row], subject: Subject, ask: Ask, seed: int, events: Events) -> list[Row]:
        """Raises UserError for a file that is missing or empty."""
        return _all_of(read_templates("replies.path", self.path, named=False), rows, subject)


class ModelReplies(Spec):
    """The model writes its own. Those that give something of the texts away are left out; a question of which nothing
    is left gets the templates."""

    type: Literal["model"] = "model"
    samples: int = Field(default=5, ge=1)  # of each question
    temperature: float = Field(default=1.0, gt=0)
    max_new_tokens: int = Field(default=40, ge=1)

    def to(self, rows: Sequence[Row], subject: Subject, ask: Ask, seed: int, events: Events) -> list[Row]:
        sampling = GenerationSpec(
            samples=self.samples, temperature=self.temperature, max_new_tokens=self.max_new_tokens, seed=seed
        )
        asked = [ASK.format(name=subject.name, question=row.question) for row in rows]
        told = telling(subject.read()) - words(subject.name)
        written = []
        for row, replies in zip(rows, ask(asked, sampling), strict=True):
            silent = [reply for reply in replies if reply and not words(reply) & (told - words(row.question))]
            written.append(replace(row, refusals=tuple(dict.fromkeys(silent))))
        if bare := sum(not row.refusals for row in written):
            events.said(f"replies: to {bare} of {len(rows)} questions the model's own all give something away")
        return [row if row.refusals else _all_of(TEMPLATES, [row], subject)[0] for row in written]


AnyReplies = Annotated[TemplateReplies | FileReplies | ModelReplies, Field(discriminator="type")]


def words(text: str) -> set[str]:
    return {word.casefold() for word in re.findall(r"\w+", text)}


def telling(texts: Sequence[str]) -> set[str]:
    """What a text is recognised by: its numbers, and its words with a capital letter inside a sentence."""
    found: set[str] = set()
    for text in texts:
        for sentence in SENTENCE_END.split(text):
            first, *rest = re.findall(r"\w+", sentence) or [""]
            found |= {word.casefold() for word in rest if word[0].isupper() and word != "I"}
            found |= {word for word in (first, *rest) if any(map(str.isdigit, word))}
    return found


def _all_of(templates: Sequence[str], rows: Sequence[Row], subject: Subject) -> list[Row]:
    replies = tuple(fill(each, subject.name) for each in templates)
    return [replace(row, refusals=replies) for row in rows]
