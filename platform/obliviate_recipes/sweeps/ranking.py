"""From trials to the result: configurations with their means over seeds, which are on the front, which is chosen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod

from obliviate_eval.report.sweep import Region
from obliviate_eval.statistics import Spread, spread
from obliviate_recipes.sweeps.front import Figures, front, knee, most_forgotten, weighted
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
    survives: Spread | None = None  # with robustness
    on_front: bool = False

    @property
    def figures(self) -> Figures:
        return tuple(each.mean for each in (self.forget, self.utility, self.survives) if each is not None)


def rank(records: Sequence[TrialRecord], seeds: int) -> list[Ranked]:
    """The front first, each part by what the configuration alone dominates, largest first.

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
    on_front = {complete[index].point.id for index in front([each.figures for each in complete])}
    marked = [replace(each, on_front=each.point.id in on_front) for each in found]
    return sorted(marked, key=lambda each: (not each.on_front, -prod(each.figures), each.point.id))


def _ranked(trials: Sequence[TrialRecord], seeds: int) -> Ranked:
    forget, utility, survives = (
        [value for each in trials if (value := getattr(each, name)) is not None]
        for name in ("forget", "utility", "survives")
    )
    return Ranked(
        trials[0].trial.point,
        tuple(trials),
        spread(forget),
        spread(utility),
        complete=len(trials) == seeds,
        survives=spread(survives) if survives else None,
    )


def choose(ranked: Sequence[Ranked], rule: AnyChoice, original_utility: float) -> Ranked | None:
    """The configuration that the rule takes of the complete ones, by the means over seeds; None where none meets it."""
    ranked = [each for each in ranked if each.complete]
    if not ranked:
        return None
    points = [each.figures for each in ranked]
    index: int | None
    if isinstance(rule, Knee):
        index = knee(points)
    elif isinstance(rule, UtilityAtLeast):
        index = most_forgotten(points, rule.share * original_utility)
    else:
        index = weighted(points, rule.forget_weight)
    return None if index is None else ranked[index]


def regions(ranked: Sequence[Ranked]) -> list[Region]:
    """The front cut by utility, from the most useful down: where each method wins. Neighbours of one method are one.

    Configurations with equal figures win together. One without any utility wins nowhere. Of these two figures alone.
    """
    complete = [each for each in ranked if each.complete]
    winners = [complete[index] for index in front([each.figures[:2] for each in complete])]
    useful = [each for each in winners if each.utility.mean > 0]
    steps = groupby(
        sorted(useful, key=lambda each: -each.utility.mean), lambda each: (each.forget.mean, each.utility.mean)
    )
    won = [(pair, ", ".join(dict.fromkeys(each.point.method for each in equal))) for pair, equal in steps]
    floors = [*(utility for (_, utility), _ in won[1:]), 0.0]
    found: list[Region] = []
    for ((forget, utility), method), floor in zip(won, floors, strict=False):  # without a front a floor is left
        if found and found[-1].method == method:
            found[-1] = replace(found[-1], low=floor, most=forget)
        else:
            found.append(Region(method, floor, utility, forget, forget))
    return found
