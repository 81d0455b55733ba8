"""From trials to the result: configurations with their means over seeds, which are on the front, which is chosen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from obliviate_cli.sweep.front import Pair, Spread, front, knee, most_forgotten, spread, weighted
from obliviate_cli.sweep.records import TrialRecord
from obliviate_cli.sweep.space import Point
from obliviate_cli.sweep.spec import AnyChoice, Knee, UtilityAtLeast


@dataclass(frozen=True)
class Ranked:
    """A configuration that was measured with at least one seed."""

    point: Point
    trials: tuple[TrialRecord, ...]  # measured ones, by seed
    forget: Spread
    utility: Spread
    on_front: bool = False

    @property
    def pair(self) -> Pair:
        return self.forget.mean, self.utility.mean


def rank(records: Sequence[TrialRecord]) -> list[Ranked]:
    """The front first, each part by the area that the configuration alone dominates, largest first.

    Only measured trials count: one that a scheduler stopped has figures of a model that was not finished.
    """
    by_point: dict[str, list[TrialRecord]] = {}
    for record in sorted(records, key=lambda record: record.seed):
        if record.status == "done":
            by_point.setdefault(record.trial.point.id, []).append(record)
    found = [_ranked(trials) for trials in by_point.values()]
    on_front = set(front([each.pair for each in found]))
    marked = [replace(each, on_front=index in on_front) for index, each in enumerate(found)]
    return sorted(marked, key=lambda each: (not each.on_front, -each.pair[0] * each.pair[1], each.point.id))


def _ranked(trials: Sequence[TrialRecord]) -> Ranked:
    figures = [(t.forget, t.utility) for t in trials if t.forget is not None and t.utility is not None]
    forget, utility = (spread([pair[axis] for pair in figures]) for axis in (0, 1))
    return Ranked(trials[0].trial.point, tuple(trials), forget, utility)


def choose(ranked: Sequence[Ranked], rule: AnyChoice, original_utility: float) -> Ranked | None:
    """The configuration that the rule takes, by the means over seeds; None where none meets it."""
    if not ranked:
        return None
    pairs = [each.pair for each in ranked]
    index: int | None
    if isinstance(rule, Knee):
        index = knee(pairs)
    elif isinstance(rule, UtilityAtLeast):
        index = most_forgotten(pairs, rule.share * original_utility)
    else:
        index = weighted(pairs, rule.forget_weight)
    return None if index is None else ranked[index]
