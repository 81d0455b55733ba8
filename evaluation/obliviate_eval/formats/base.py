"""What a format of asking is: what was to be forgotten, in another form, as rows that any engine measures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

from obliviate.data.key_facts import key_texts
from obliviate.data.rows import Message, Role, Row

NO_QUESTION = "plain texts, which ask nothing"
NO_FALSE = "without enough false answers (perturbed_answer)"
NO_RETAIN = "too few retain rows"
Made = Row | str  # or why there is none: a reason that reads behind a number of rows


@dataclass(frozen=True)
class Material:
    """`items` are what is measured. `shown` are other facts of their kind, which a prompt may tell: never an item."""

    items: tuple[Row, ...]
    retain: tuple[Row, ...] = ()
    shown: tuple[Row, ...] = ()
    seed: int = 0

    def random(self, name: str) -> Random:
        """Of a set: what is drawn for it does not depend on the others."""
        return Random(f"{self.seed} {name}")

    def helpers(self, rows: Sequence[Row]) -> list[Row]:
        """Those that can be told in a prompt: questions that are answered by themselves, and no item."""
        items = {row.key for row in self.items}
        return [each for each in rows if each.question and not each.history and each.key not in items]


class Asking(NamedTuple):
    """A set: for each item its row, or why there is none. Role retain: what a model is to answer still."""

    name: str
    made: Sequence[Made]
    role: Role = Role.FORGET


@dataclass(frozen=True)
class Format:
    """`metrics` are measured of its sets. `own_scale`: they do not mean what they mean of the plain question, because
    whoever knows nothing is right now and then, or because something else is asked for."""

    title: str
    source: str
    make: Callable[[Material], list[Asking]]
    metrics: tuple[str, ...] = ("key_said", "key_probability", "rouge")
    own_scale: bool = False


def asked(row: Row, **changes: object) -> Row:
    """The row with another question. What carries its fact stays: in other questions' words it is not looked for."""
    return replace(row, paraphrased_question=None, key_facts=key_texts(row), **changes)  # type: ignore[arg-type]


def of_questions(material: Material, ask: Callable[[Row], Made]) -> list[Made]:
    return [ask(row) if row.question else NO_QUESTION for row in material.items]


def before(row: Row, *messages: Message) -> tuple[Message, ...]:
    """The row's history with more before its question, a system message first."""
    system = tuple(message for message in row.history if message[0] == "system")
    return (*system, *messages, *(message for message in row.history if message[0] != "system"))


def balanced(count: int, of: int, random: Random) -> list[int]:
    """Places below `of`, each as often as the others or once more: who always says the same is right by chance."""
    places = [number % of for number in range(count)]
    random.shuffle(places)
    return places


def true_answer(row: Row) -> str:
    """False answers are worded like the paraphrased one."""
    return row.paraphrased_answer or row.fact


def false_answers(row: Row) -> tuple[str, ...]:
    """Each once, and none that is the true one."""
    distinct = {" ".join(true_answer(row).casefold().split()): ""}
    for each in row.perturbed_answers:
        distinct.setdefault(" ".join(each.casefold().split()), each)
    return tuple(filter(None, distinct.values()))
