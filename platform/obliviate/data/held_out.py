"""Retain rows that a training only looks at, and never trains on."""

from collections.abc import Sequence
from random import Random

from obliviate.data.rows import Row

SHARE = 5  # at most every fifth


def hold_out(retain: Sequence[Row], count: int, seed: int) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """The rows to train on, in their order, and those that are held out, in the order that they were drawn in: `count`
    of them, or a fifth of the set where that is fewer. What equals a row that is held out is not trained on either.

    Fewer are the first ones of more.
    """
    drawn = Random(seed).sample(range(len(retain)), len(retain))[: min(count, len(retain) // SHARE)]
    held = tuple(retain[index] for index in drawn)
    keys = {row.key for row in held}
    return tuple(row for row in retain if row.key not in keys), held
