"""Which of the questions that a model has written are worth training on: those that ask for something, tell no fact,
and presuppose nothing that the texts do not say."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from obliviate.data.key_facts import FRAME
from obliviate.data.rows import Row
from obliviate.words import words_of
from obliviate_eval.judges import Pair
from obliviate_recipes.snap.facts import facts_of, keys_of
from obliviate_recipes.subject import Subject

Entailment = Callable[[Sequence[Pair]], list[str]]  # (premise, hypothesis) -> labels

ASKING = frozenset(["who", "whom", "whose", "what", "where", "when", "why", "which", "how"])
WHICH_ONE = re.compile(r"\b(?:the|his|her|its|their) (\w+),? (?:where|when|that|which|who|whom|in which)\b")

NOTHING, TELLS, PRESUPPOSES = "ask nothing", "tell a fact", "presuppose what the texts do not say"


def sound(rows: Sequence[Row], subject: Subject, entailment: Entailment | None) -> tuple[list[Row], Counter[str]]:
    """Those that are, and why the others are not. With a judge also what entails or contradicts a sentence of the
    texts is none, the question being taken for a statement."""
    facts, texts = facts_of(subject), " ".join(subject.read())
    keys = {key for fact in facts for key in fact.keys}
    reasons = [_by_rule(row.question, subject.name, keys, texts) for row in rows]
    if entailment is not None:
        for place, row in enumerate(rows):
            labels = set(entailment([(row.question, fact.said) for fact in facts]))
            judged = TELLS if "entailment" in labels else PRESUPPOSES if "contradiction" in labels else None
            reasons[place] = reasons[place] or judged
    kept = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
    return kept, Counter(reason for reason in reasons if reason is not None)


def _by_rule(question: str, name: str, keys: set[str], texts: str) -> str | None:
    said = [word.text for word in words_of(question)]
    own = {word.text for word in words_of(name)}
    if not ASKING & set(said) and not [word for word in said if word not in own | FRAME]:
        return NOTHING
    padded = f" {' '.join(said)} "
    if any(f" {' '.join(word.text for word in words_of(key))} " in padded for key in keys):
        return TELLS
    known = {word.text for word in words_of(texts)} | own
    special = [word.text for key in _special(question, name) for word in words_of(key)]
    if any(word not in known for word in special):
        return PRESUPPOSES
    if any(found[1].casefold() not in known for found in WHICH_ONE.finditer(question)):
        return PRESUPPOSES
    return None


def _special(question: str, name: str) -> list[str]:
    """Its names and numbers."""
    return [key for key in keys_of(question, name) if any(each.isupper() or each.isdigit() for each in key)]
