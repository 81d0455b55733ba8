"""Means of item scores, and areas under the ROC curve, with percentile bootstrap intervals (Efron 1979).

Shapes: I items of one set, M metrics, R resamples, U distinct values. A resample is kept as how often it drew each
item: the means of all metrics under all resamples are then one matrix product, and metrics of the same item stay
together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CONFIDENCE = 0.95
NORMAL_95 = 1.96  # standard errors on either side of a mean


@dataclass(frozen=True)
class Spread:
    """A figure over seeds: mean, and its 95 % interval from Student's t; None for a single seed."""

    mean: float
    low: float | None
    high: float | None
    count: int


def spread(values: Sequence[float]) -> Spread:
    from scipy.stats import t as student_t

    mean, count = fmean(values), len(values)
    if count < 2:
        return Spread(mean, None, None, count)
    half = float(student_t.ppf((1 + CONFIDENCE) / 2, count - 1)) * stdev(values) / sqrt(count)
    return Spread(mean, mean - half, mean + half, count)


@dataclass(frozen=True)
class Figure:
    """A number with its 95 % interval and what it rests on.

    Of a metric, `scored` and `unscored` count items; of an aggregate, the numbers that entered it and those that were
    absent. None: nothing was scored (value), or too little to see a spread (low, high).
    """

    value: float | None
    low: float | None
    high: float | None
    scored: int
    unscored: int
    over_seeds: Spread | None = None  # where the value is a mean over models of several seeds


@dataclass(frozen=True)
class Estimate:
    """A number over scored items (a metric's mean over a set, say), and the same under each resample: [R].

    `drawn` is False where a resample happened to hold too few of the scored items, and throughout where they are too
    few to show a spread; the value there is meaningless.
    """

    value: float | None
    resampled: Floats
    drawn: Bools
    scored: int
    unscored: int
    bounds: tuple[float, float] | None = None  # in place of the bootstrap's interval, where theory gives one

    def figure(self) -> Figure:
        low, high = self.bounds or interval(self.resampled[self.drawn])
        return Figure(value=self.value, low=low, high=high, scored=self.scored, unscored=self.unscored)


def resample(items: int, resamples: int, seed: Sequence[int]) -> Floats:
    """How often each of `resamples` draws of `items` items with replacement holds each item: [R, I]."""
    counts_RI = np.random.default_rng(seed).multinomial(items, np.full(items, 1 / items), size=resamples)
    return counts_RI.astype(np.float64)


def means(score_MI: Sequence[Sequence[float | None]], counts_RI: Floats) -> list[Estimate]:
    """The mean of each metric over the items that it could score."""
    scored_MI = np.array([[score is not None for score in scores] for scores in score_MI])
    value_MI = np.array([[0.0 if score is None else score for score in scores] for scores in score_MI])
    drawn_RM = counts_RI @ scored_MI.T.astype(np.float64)
    mean_RM = (counts_RI @ value_MI.T) / np.maximum(drawn_RM, 1)
    return [
        Estimate(
            value=float(value_I[scored_I].mean()) if scored_I.any() else None,
            resampled=mean_RM[:, m],
            drawn=(drawn_RM[:, m] > 0) & (scored_I.sum() > 1),
            scored=int(scored_I.sum()),
            unscored=int((~scored_I).sum()),
        )
        for m, (value_I, scored_I) in enumerate(zip(value_MI, scored_MI, strict=True))
    ]


def nothing(unscored: int, resamples: int) -> Estimate:
    """Of `unscored` items, none of which could be scored."""
    return Estimate(None, np.zeros(resamples), np.zeros(resamples, dtype=np.bool_), scored=0, unscored=unscored)


def drawn_from(figure: Figure, resamples: int, seed: Sequence[int]) -> Estimate:
    """Of a figure whose items are not at hand: draws from the normal distribution that its interval belongs to."""
    if figure.value is None or figure.low is None or figure.high is None:
        value_R = np.full(resamples, figure.value or 0.0)
        return Estimate(figure.value, value_R, np.zeros(resamples, dtype=np.bool_), figure.scored, figure.unscored)
    deviation = (figure.high - figure.low) / (2 * NORMAL_95)
    value_R = np.random.default_rng(seed).normal(figure.value, deviation, resamples)
    return Estimate(figure.value, value_R, np.ones(resamples, dtype=np.bool_), figure.scored, figure.unscored)


def auc(low_I: Sequence[float], high_I: Sequence[float], low_RI: Floats, high_RI: Floats) -> tuple[Floats, Bools]:
    """Chance that an item of `high` has the larger value than one of `low`, ties counting half, under each resample.

    `low_RI`, `high_RI`: how often each resample holds each item. [R] values, and [R] whether it holds both kinds.
    That chance is the area under the ROC curve (Hanley and McNeil 1982). Sorted once, summed for each resample.
    """
    values, where = np.unique(np.concatenate([low_I, high_I]), return_inverse=True)
    low_RU = _summed(low_RI, where[: len(low_I)], len(values))
    high_RU = _summed(high_RI, where[len(low_I) :], len(values))
    below_RU = low_RU.cumsum(1) - low_RU / 2
    pairs_R = low_RU.sum(1) * high_RU.sum(1)
    return (high_RU * below_RU).sum(1) / np.maximum(pairs_R, 1), pairs_R > 0


def _summed(count_RI: Floats, where_I: NDArray[np.intp], values: int) -> Floats:
    """Counts of items with the same value: [R, U]."""
    count_RU = np.zeros((len(count_RI), values))
    np.add.at(count_RU.T, where_I, count_RI.T)
    return count_RU


def interval(value_R: Floats) -> tuple[float | None, float | None]:
    """The central 95 % of resampled values; None where there are none."""
    if value_R.size == 0:
        return None, None
    low, high = np.quantile(value_R, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def harmonic_mean(value_RK: Floats) -> Floats:
    """Over the last axis; 0 where any value is 0 or less, as its limit."""
    positive_RK = np.where(value_RK > 0, value_RK, 1.0)
    return np.where((value_RK > 0).all(-1), value_RK.shape[-1] / (1 / positive_RK).sum(-1), 0.0)
