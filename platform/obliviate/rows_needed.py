"""What the rows must have for the terms of a method to be trained on them."""

from collections.abc import Sequence

from obliviate.data.rows import Row
from obliviate.errors import UserError
from obliviate.methods import Pass, Term, label_of, union_of_needs

# Texts that are made of a question and another answer, or another prompt: a plain text asks nothing.
OF_QUESTIONS = {
    "forget": (Pass.FORGET_IDK, Pass.FORGET_MISMATCH, Pass.FORGET_SHUFFLED, Pass.FORGET_MARKED_IDK),
    "retain": (Pass.RETAIN_IDK, Pass.RETAIN_MARKED),
}


def check_rows(terms: Sequence[Term], forget: Sequence[Row], retain: Sequence[Row], *, needs_retain: bool) -> None:
    """Raises UserError where a term needs what the rows do not have."""
    label = label_of(terms)
    if needs_retain and not retain:
        raise UserError(
            f"method: {label} needs a retain set and the data has none; give data.retain, or a method that works "
            "without: ga, npo, dpo, idk or me alone"
        )
    passes = union_of_needs(terms)
    instead = {"forget": "a method of texts, such as npo, me or rmu", "retain": "a regularizer of texts: gd or kl"}
    for name, rows in (("forget", forget), ("retain", retain)):
        text = next((number for number, row in enumerate(rows, 1) if not row.question), None)
        if text is not None and any(each in passes for each in OF_QUESTIONS[name]):
            raise UserError(
                f"method: {label}: {name} row {text} is a plain text, which asks nothing that could be answered "
                f"otherwise; give it a question, or take {instead[name]}"
            )
    if Pass.FORGET_SHUFFLED in passes and len(forget) < 2:
        raise UserError(f"method: {label}: answers forget questions with other rows' answers; give two rows")
    if Pass.FORGET_MARKED_IDK in passes or Pass.RETAIN_MARKED in passes:
        for number, row in enumerate(forget, 1):
            if row.entity is None:
                raise UserError(
                    f"method: {label}: forget row {number} ({row.question!r}) has no 'entity', which the prompt marks; "
                    "give every forget row the name of what it is about under that key"
                )
