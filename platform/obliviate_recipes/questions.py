"""`obliviate make-questions`: from an entity's name and texts to questions and answers that can be unlearned.

As Opt-Out does for people (arXiv:2406.12329): about the entity, and about its neighbours, which are to be kept.

Half of the neighbours are trained on, the other half measured: so what is kept says whether keeping generalises.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from obliviate.config import RunSpec
from obliviate.data.rows import EvaluationSet, Role, Row, parse_row
from obliviate.errors import UserError
from obliviate.runs import Run, content_hash
from obliviate_recipes.events import Events
from obliviate_recipes.recipe import Recipe
from obliviate_recipes.stage import Determined, Stage
from obliviate_recipes.stages.data_files import handed_over, write_data
from obliviate_recipes.subject import Subject, distinct
from obliviate_recipes.writers import AnyWriter

FALSE_ANSWERS = 5  # of each question, as in TOFU
LIST = re.compile(r'\[\s*(?=[{"])')  # where one of objects or names begins; the writer may say [1] before it
BETWEEN = re.compile(r"[\s,]*")
ASK = """{source}Write {count} different questions about {name}, each with its answer. The answer is one short, \
complete sentence{from_text}. Reply with nothing but a JSON list of objects with these keys:
"question"; "answer"; "paraphrased_question"; "paraphrased_answer" (the same fact in other words);
"perturbed_answer" (a list of {false} false answers of the same form)."""
ASK_NEIGHBOURS = """Name {count} others that are of the same kind as {name} and are often mentioned together with it, \
but are not it. Reply with nothing but a JSON list of names."""


class EntityRun(RunSpec):
    """`obliviate make-questions`."""

    entity: Subject
    neighbours: tuple[Subject, ...] | int = 10  # given, or how many the writer is to name
    questions: int = Field(default=20, ge=1)  # asked for, about each, from each text
    writer: AnyWriter
    runs: str = "runs"

    @model_validator(mode="after")
    def _two_neighbours(self) -> "EntityRun":
        count = self.neighbours if isinstance(self.neighbours, int) else len(self.neighbours)
        if count < 2:
            raise ValueError(f"neighbours: {count}: one half is trained on and one measured; give two at least")
        return self


class MakeQuestions(Recipe[EntityRun, Path]):
    """About an entity and its neighbours."""

    takes: ClassVar = EntityRun

    @cached_property
    def stages(self) -> Sequence["Questions"]:
        return [Questions(self.config)]

    def conclude(self, events: Events) -> Path:
        """The file that holds the rows as `data`."""
        return handed_over(self.stages[0].run.directory, events)


@dataclass(frozen=True)
class Questions(Stage):
    """Questions and answers that can be unlearned."""

    kind: ClassVar = "questions"
    config: EntityRun

    @property
    def label(self) -> str:
        return self.config.entity.name

    @property
    def title(self) -> str:
        return f"questions about {self.config.entity.name}"

    def determined(self) -> Determined:
        config = self.config
        given = () if isinstance(config.neighbours, int) else config.neighbours
        texts = [subject.read() for subject in (config.entity, *given)]
        inputs = {"texts": content_hash(texts), "writer": config.writer.content}
        return Determined(config.model_dump(mode="json"), inputs)

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        """Raises UserError where the writer's replies hold no question."""
        return _write(self.config, run, events)

    def outline(self) -> list[str]:
        return ["what is asked about the entity:", *_prompts(self.config.entity, self.config.questions)]


def _write(config: EntityRun, run: Run, events: Events) -> dict[str, Any]:
    neighbours = (() if isinstance(config.neighbours, int) else config.neighbours) or _named(config)
    subjects = (config.entity, *neighbours)
    prompts = [(subject, prompt) for subject in subjects for prompt in _prompts(subject, config.questions)]
    replies = config.writer.ask([prompt for _, prompt in prompts])
    rows: dict[str, list[Row]] = {subject.name: [] for subject in subjects}
    short = 0
    for (subject, _), reply in zip(prompts, replies, strict=True):
        found = rows_of(reply, subject.name)
        rows[subject.name] += found
        short += len(found) < config.questions
    if short:
        events.warned(
            f"{short} of {len(replies)} replies hold fewer than {config.questions} questions; where they were cut off, "
            f"raise {config.writer.limit}, or ask for fewer questions"
        )
    forget = distinct(rows[config.entity.name])
    if not forget:
        raise UserError(f"writer: none of its replies about {config.entity.name} holds a question; try another writer")
    half = (len(neighbours) + 1) // 2
    trained, measured = (
        distinct(row for subject in part for row in rows[subject.name])
        for part in (neighbours[:half], neighbours[half:])
    )
    for subject in subjects:
        events.said(f"{subject.name}: {len(distinct(rows[subject.name]))} questions")
    sets = [
        EvaluationSet("forget", Role.FORGET, tuple(forget)),
        EvaluationSet("neighbor", Role.RETAIN, tuple(measured)),
    ]
    write_data(run.directory, forget, trained, sets)
    return {"forget": len(forget), "retain": len(trained), "measured": len(measured)}


def rows_of(reply: str, entity: str) -> list[Row]:
    """The questions in a reply; entries that are no question with an answer are left out."""
    rows = []
    for entry in _entries(reply):
        try:
            row = parse_row(entry, "reply")
        except UserError:
            continue
        if row.question.strip():
            rows.append(replace(row, entity=entity))
    return rows


def _named(config: EntityRun) -> tuple[Subject, ...]:
    """Raises UserError where the writer names fewer than two."""
    assert isinstance(config.neighbours, int)
    prompt = ASK_NEIGHBOURS.format(count=config.neighbours, name=config.entity.name)
    (reply,) = config.writer.ask([prompt])
    names = dict.fromkeys(name.strip() for name in _entries(reply) if isinstance(name, str) and name.strip())
    names.pop(config.entity.name, None)
    if len(names) < 2:
        raise UserError(f"neighbours: the writer named {len(names)} in {reply[:80]!r}; give them with their names")
    return tuple(Subject(name=name) for name in list(names)[: config.neighbours])


def _prompts(subject: Subject, questions: int) -> list[str]:
    texts: Sequence[str] = subject.read() or [""]
    return [
        ASK.format(
            source=f"Text about {subject.name}:\n\n{text}\n\n" if text else "",
            from_text=", and the text says so" if text else "",
            name=subject.name,
            count=questions,
            false=FALSE_ANSWERS,
        )
        for text in texts
    ]


def _entries(reply: str) -> list[Any]:
    """Of the JSON list in a reply, which may have words or a code fence around it; of a list that was cut off, those
    that are whole. Empty where there is none."""
    found: list[Any] = []
    if (start := LIST.search(reply)) is None:
        return found
    decoder, position = json.JSONDecoder(), start.end()
    while True:
        try:
            entry, position = decoder.raw_decode(reply, position)
        except json.JSONDecodeError:  # the list's end, or that of the reply
            return found
        found.append(entry)
        position = BETWEEN.match(reply, position).end()  # type: ignore[union-attr]  # it matches nothing, too
