"""The fact's own sentence up to the fact, and the sentence without whom it is about."""

from obliviate.data.key_facts import key_spans
from obliviate.data.rows import Row
from obliviate_eval.formats.base import NO_QUESTION, Asking, Format, Made, Material, of_questions
from obliviate_eval.formats.names import NAMELESS, names, without

BLANK = "___"


def cloze(material: Material) -> list[Asking]:
    """The answer up to the first words that carry the fact is put into the model's mouth: it tells nothing of it."""
    return [Asking("cloze", of_questions(material, _gap))]


def _gap(row: Row) -> Made:
    spans = key_spans(row)
    if not spans:
        return "whose fact is not known, or is the whole answer (give its words as key)"
    start, end = spans[0]
    opening = row.fact[:start]
    begins = len(opening) - len(opening.split(" ")[-1])  # a quotation mark before the fact belongs to it
    if not row.fact[:begins].strip():
        return "whose answer begins with its fact"
    return Row(
        row.question,
        row.fact[begins:end],
        history=row.history,
        answer_prefix=" ".join(filter(None, (row.answer_prefix, row.fact[:begins].rstrip()))),
        entity=row.entity,
        key_facts=(row.fact[start:end],),
    )


def reverse(material: Material) -> list[Asking]:
    """From what is said to of whom it is said."""
    made: list[Made] = []
    for row, name in zip(material.items, names(material.items), strict=True):
        if not row.question or name is None or name not in row.fact:
            made.append(NAMELESS if row.question else NO_QUESTION)
            continue
        question = (
            f"In this text a name is left out:\n{without(row.fact, name, BLANK)}\n"
            "Of whom or what is it said? Answer with the name."
        )
        made.append(Row(question, name, history=row.history, entity=row.entity, key_facts=(name,)))
    return [Asking("reverse", made)]


CLOZE = Format("The answer's own frame up to the fact", "arXiv:2411.15477, made by rule", cloze)
REVERSE = Format(
    "From the answer to whom it is about",
    "arXiv:2406.10890 (reverse query), made by rule",
    reverse,
    own_scale=True,
)
