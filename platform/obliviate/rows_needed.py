"""What the rows must have for the terms of a method to be trained on them."""

from collections.abc import Sequence

from obliviate.data.rows import Row
from obliviate.errors import UserError
from obliviate.methods import Term, label_of, union_of_needs
from obliviate.methods.texts import Sets


def check_rows(terms: Sequence[Term], forget: Sequence[Row], retain: Sequence[Row], *, needs_retain: bool) -> None:
    """Raises UserError where a term needs what the rows do not have."""
    label = label_of(terms)
    if needs_retain and not retain:
        raise UserError(
            f"method: {label} needs a retain set and the data has none; give data.retain, or a method that works "
            "without: ga, npo, dpo, idk or me alone"
        )
    sets = Sets(forget, retain)
    for each in union_of_needs(terms):
        if lack := each.lack(sets):
            raise UserError(f"method: {label}: {lack}")
