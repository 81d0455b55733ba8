"""From trials to the result: configurations with their means over seeds, which are on the front, which is chosen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from obliviate_eval.report.sweep import Region
from obliviate_eval.statistics import Spread, spread
from obliviate_recipes.sweeps.front import Pair, front, knee, most_forgotten, weighted
from obliviate_recipes.sweeps.records import TrialRecord
from obliviate_recipes.sweeps.space import Point
from obliviate_recipes.sweeps.spec import AnyChoice, Knee, UtilityAtLeast


@dataclass(frozen=True)
class Ranked:
    """A configuration that was measured with at least one seed."""

    point: Point
    trials: tuple[TrialRecord, ...]  # measured ones, by seed
    forget: Spread
    utility: Spread
    complete: bool  # measured with every seed
    on_front: bool = False

    @property
    def pair(self) -> Pair:
        return self.forget.mean, self.utility.mean


def rank(records: Sequence[TrialRecord], seeds: int) -> list[Ranked]:
    """The front first, each part by the area that the configuration alone dominates, largest first.

    Only measured trials count: one that a scheduler stopped has figures of a model that was not finished. Of what was
    measured with fewer than all `seeds` nothing is on the front: the mean of those that were not stopped, or did not
    fail, is that of the lucky ones.
    """
    by_point: dict[str, list[TrialRecord]] = {}
    for record in sorted(records, key=lambda record: record.seed):
        if record.status == "done":
            by_point.setdefault(record.trial.point.id, []).append(record)
    found = [_ranked(trials, seeds) for trials in by_point.values()]
    complete = [each for each in found if each.complete]
    on_front = {complete[index].point.id for index in front([each.pair for each in complete])}
    marked = [replace(each, on_front=each.point.id in on_front) for each in found]
    return sorted(marked, key=lambda each: (not each.on_front, -each.pair[0] * each.pair[1], each.point.id))


def _ranked(trials: Sequence[TrialRecord], seeds: int) -> Ranked:
    figures = [(t.forget, t.utility) for t in trials if t.forget is not None and t.utility is not None]
    forget, utility = (spread([pair[axis] for pair in figures]) for axis in (0, 1))
    return Ranked(trials[0].trial.point, tuple(trials), forget, utility, complete=len(trials) == seeds)


def choose(ranked: Sequence[Ranked], rule: AnyChoice, original_utility: float) -> Ranked | None:
    """The configuration that the rule takes of the complete ones, by the means over seeds; None where none meets it."""
    ranked = [each for each in ranked if each.complete]
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


def regions(ranked: Sequence[Ranked]) -> list[Region]:
    """The front cut by utility, from the most useful down: where each method wins. Neighbours of one method are one.

    Configurations with equal figures win together. One without any utility wins nowhere.
    """
    on_front = [each for each in ranked if each.on_front and each.pair[1] > 0]
    steps = groupby(sorted(on_front, key=lambda each: -each.pair[1]), lambda each: each.pair)
    won = [(pair, ", ".join(dict.fromkeys(each.point.method for each in equal))) for pair, equal in steps]
    floors = [*(utility for (_, utility), _ in won[1:]), 0.0]
    found: list[Region] = []
    for ((forget, utility), method), floor in zip(won, floors, strict=False):  # without a front a floor is left
        if found and found[-1].method == method:
            found[-1] = replace(found[-1], low=floor, most=forget)
        else:
            found.append(Region(method, floor, utility, forget, forget))
    return found
