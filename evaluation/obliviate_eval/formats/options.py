"""Questions with options, whose letters are compared: who knows nothing is right by chance."""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from obliviate.data.options import LETTERS, lettered, others
from obliviate.data.relu import ODD
from obliviate.data.rows import Row
from obliviate.words import words_of
from obliviate_eval.formats.base import (
    NO_FALSE,
    NO_QUESTION,
    NO_RETAIN,
    Asking,
    Format,
    Made,
    Material,
    balanced,
    false_answers,
    true_answer,
)
from obliviate_eval.formats.names import NAMELESS, names

LIKE = 0.5  # of the words of two questions, the share that both have, from which on they ask for the same relation
SAY_THE_LETTER = "Answer with the letter of the right option alone."


class _Draft(NamedTuple):
    row: Row
    question: str
    right: str
    wrong: Sequence[str]


def multiple_choice(material: Material) -> list[Asking]:
    """The true answer among false ones, drawn from all that the row has."""
    return [_choice(material, f"multiple_choice_{of}", of) for of in (2, 3, 4)]


def _choice(material: Material, name: str, of: int) -> Asking:
    random = material.random(name)
    drafts: list[_Draft | str] = []
    for row in material.items:
        false = false_answers(row)
        if not row.question or len(false) < of - 1:
            drafts.append(NO_FALSE if row.question else NO_QUESTION)
        else:
            drafts.append(_Draft(row, row.question, true_answer(row), random.sample(false, of - 1)))
    return Asking(name, _lettered(drafts, of, random))


def odd_one_out(material: Material) -> list[Asking]:
    """The fact among facts of the retain set, as in ReLU: each of these stands in one question at most."""
    random = material.random("odd_one_out")
    facts = list(dict.fromkeys(row.fact for row in material.helpers(material.retain)))
    random.shuffle(facts)
    drafts: list[_Draft | str] = []
    for row in material.items:
        group, facts = facts[:3], facts[3:]
        drafts.append(_Draft(row, ODD, row.fact, group) if len(group) == 3 else NO_RETAIN)
    return [Asking("odd_one_out", _lettered(drafts, 4, random))]


def analogy(material: Material) -> list[Asking]:
    """A name and what is said of it, of the retain row with the most similar question; then the item's name."""
    random = material.random("analogy")
    helpers = material.helpers(material.retain)
    pairs = [
        (name, row, _relation(row, name)) for row, name in zip(helpers, names(helpers), strict=True) if name is not None
    ]
    drafts: list[_Draft | str] = []
    for row, name in zip(material.items, names(material.items), strict=True):
        false = false_answers(row)
        if name is None or len(false) < 3:
            drafts.append(NO_FALSE if name else NAMELESS)
            continue
        asked = _relation(row, name)
        like, other, helper = max(
            ((_likeness(asked, words), other, helper) for other, helper, words in pairs),
            key=lambda found: found[0],
            default=(0.0, "", row),
        )
        if like < LIKE:
            drafts.append("to whose question no retain question is similar")
            continue
        question = f"{other}: {helper.fact}\n{name}: ?\nWhich option continues the second line as the first does?"
        drafts.append(_Draft(row, question, true_answer(row), random.sample(false, 3)))
    return [Asking("analogy", _lettered(drafts, 4, random))]


def true_false(material: Material) -> list[Asking]:
    """The true answer or a false one, half of the items each."""
    random = material.random("true_false")
    possible = [row for row in material.items if row.question and false_answers(row)]
    truths = dict(zip(map(id, possible), balanced(len(possible), 2, random), strict=True))
    made: list[Made] = []
    for row in material.items:
        if id(row) not in truths:
            made.append(NO_FALSE if row.question else NO_QUESTION)
            continue
        false = bool(truths[id(row)])
        said = random.choice(false_answers(row)) if false else true_answer(row)
        question = f"Is this statement true or false?\n{said}\nAnswer with True or False alone."
        answers = ("False", "True") if false else ("True", "False")
        made.append(Row(question, answers[0], perturbed_answers=answers[1:], history=row.history, entity=row.entity))
    return [Asking("true_false", made)]


def _lettered(drafts: Sequence[_Draft | str], of: int, random: Random) -> list[Made]:
    """Each letter is right as often as the others."""
    places = iter(balanced(sum(isinstance(draft, _Draft) for draft in drafts), of, random))
    return [draft if isinstance(draft, str) else _row(draft, next(places)) for draft in drafts]


def _row(draft: _Draft, place: int) -> Row:
    options = [*draft.wrong[:place], draft.right, *draft.wrong[place:]]
    return Row(
        f"{draft.question}\n{lettered(options)}\n{SAY_THE_LETTER}",
        LETTERS[place],
        perturbed_answers=others(LETTERS[place], len(options)),
        history=draft.row.history,
        entity=draft.row.entity,
    )


def _relation(row: Row, name: str) -> frozenset[str]:
    """The words of the question but for whom it is about."""
    return frozenset(word.text for word in words_of(row.question.replace(name, "")))


def _likeness(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / len(first | second) if first | second else 0.0


_SOURCE = "arXiv:2411.15477, made by rule"
MULTIPLE_CHOICE = Format(
    "The true answer among one, two and three false ones", _SOURCE, multiple_choice, ("accuracy",), own_scale=True
)
ODD_ONE_OUT = Format("One fact among three that are kept", _SOURCE, odd_one_out, ("accuracy",), own_scale=True)
ANALOGY = Format("A kept name with its fact, then the name", _SOURCE, analogy, ("accuracy",), own_scale=True)
TRUE_FALSE = Format("A statement, true or false", "p(True) against p(False)", true_false, ("accuracy",), own_scale=True)
