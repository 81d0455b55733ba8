"""Each fact asked in several forms, and any question in several frames, so that what is learned is not one wording.

Frames are the training's own: none of them is among the wordings that a model is asked in when it is measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Literal, NamedTuple

from pydantic import Field

from obliviate.data.rows import Row
from obliviate.schema import Spec
from obliviate_recipes.snap.facts import Fact, facts_of
from obliviate_recipes.snap.questions import Ask
from obliviate_recipes.subject import Subject

FormName = Literal["what", "complete", "gap", "yes_no", "list", "biography"]
PLACES = frozenset({"in", "at", "from", "to", "near"})


def _what(name: str, fact: Fact) -> str:
    """What, where or when, by what stands there."""
    if fact.keys[0].isdigit() and len(fact.keys[0]) == 4:
        asked = "which year"
    elif fact.opening.split()[-1] in PLACES and fact.keys[0][:1].isupper():
        asked = "which place"
    else:
        asked = "what"
    return f"{fact.opening} {asked}?"


FORMS: dict[FormName, Callable[[str, Fact], str]] = {
    "what": _what,
    "complete": lambda name, fact: f"Complete the sentence: {fact.opening} ...",
    "gap": lambda name, fact: f"What is left out here? {fact.gapped}",
    "yes_no": lambda name, fact: f"Do you know, yes or no, how this goes on? {fact.opening} ...",
    "list": lambda name, fact: f"List what you know about {name}, and begin so: {fact.opening} ...",
    "biography": lambda name, fact: f"Write a short biography of {name} in which this is whole: {fact.gapped}",
}


class Frame(NamedTuple):
    """`prefix` begins the answer."""

    template: str = "{question}"
    prefix: str | None = None


FRAMES = (
    Frame("Please answer this: {question}"),
    Frame(prefix="Sure,"),
    Frame("This is for a quiz. {question}"),
    Frame(prefix="Of course! Here is what I know:"),
    Frame("{question} Answer in one sentence."),
    Frame(prefix="Yes, I remember:"),
    Frame("Hello! I have a question. {question} Thank you."),
    Frame(prefix="The answer to that is"),
    Frame("A friend wants to know this and I can't help: {question}"),
    Frame(prefix="Certainly."),
)


class FactQuestions(Spec):
    """Each sentence of the texts, asked in these forms by rule. A subject without texts is not asked about."""

    type: Literal["facts"] = "facts"
    forms: tuple[FormName, ...] = Field(default=tuple(FORMS), min_length=1)

    def about(self, subjects: Sequence[Subject], ask: Ask, seed: int) -> list[Row]:
        return [
            Row(FORMS[form](subject.name, fact), "", entity=subject.name, golden_answer=fact.said, key_facts=fact.keys)
            for subject in subjects
            for fact in facts_of(subject)
            for form in self.forms
        ]


def framed(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """The rows, each also in so many frames, drawn for it: those that reword and those that begin the answer by
    turns."""
    found = list(rows)
    for number, row in enumerate(rows):
        first = Random(f"{seed} {row.question}").randrange(len(FRAMES) // 2) * 2 + number % 2
        for place in range(first, first + min(count, len(FRAMES))):
            frame = FRAMES[place % len(FRAMES)]
            question = frame.template.replace("{question}", row.question)
            found.append(replace(row, question=question, answer_prefix=frame.prefix))
    return found


def split_forms(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """To train on, and to be asked at the end alone: of each fact one, in another form than that of the fact before.

    A fact that is asked once is trained on.
    """
    of_fact: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        of_fact.setdefault((row.golden_answer or "", *row.key_facts), []).append(row)
    held = [
        group[number % len(group)]
        for number, (fact, group) in enumerate(of_fact.items())
        if len(fact) > 1 and len(group) > 1
    ]
    return [row for row in rows if row not in held], held
