"""One model trained with several seeds: the mean of each figure, and both of its spreads.

Every seed's model is measured on the same items and resampled with the same draws, so that the mean over seeds has a
bootstrap interval over items of its own. Beside it stands Student's t interval over the seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from obliviate_eval.forget_quality import ForgetQuality
from obliviate_eval.statistics import Estimate, Figure, interval, spread
from obliviate_eval.summary import Estimates, Evaluation


def pool(evaluations: Sequence[Evaluation], estimates: Sequence[Estimates]) -> Evaluation:
    """The figures of one model; `estimates`: the same figures, seed by seed, under each resample."""
    first = evaluations[0]
    tasks = [each.tasks for each in evaluations]
    return first.model_copy(
        update={
            "sets": {name: _figures([each.sets[name, role] for each in estimates]) for name, role in estimates[0].sets},
            "comparisons": _figures([each.comparisons for each in estimates]),
            "aggregates": _figures([each.aggregates for each in estimates]),
            "forget_quality": _quality([each.forget_quality for each in evaluations]),
            "tasks": {
                task: {metric: _task([each[task][metric] for each in tasks]) for metric in row}
                for task, row in first.tasks.items()
            },
        }
    )


def _figures(seeds: Sequence[Mapping[str, Estimate]]) -> dict[str, Figure]:
    return {name: _figure([each[name] for each in seeds]) for name in seeds[0]}


def _figure(seeds: Sequence[Estimate]) -> Figure:
    """Over the seeds that have a value. Items: the fewest that were scored, the most that were not."""
    scored, unscored = min(each.scored for each in seeds), max(each.unscored for each in seeds)
    values = {place: each.value for place, each in enumerate(seeds) if each.value is not None}
    if not values:
        return Figure(None, None, None, scored, unscored)
    known = [seeds[place] for place in values]
    drawn_R = np.all([each.drawn for each in known], axis=0)
    low, high = interval(np.mean([each.resampled for each in known], axis=0)[drawn_R])
    over = spread(list(values.values()))
    return Figure(over.mean, low, high, scored, unscored, over)


def _task(seeds: Sequence[Figure]) -> Figure:
    """Of the harness, which keeps no items: without an interval over them."""
    scored, unscored = min(each.scored for each in seeds), max(each.unscored for each in seeds)
    values = [each.value for each in seeds if each.value is not None]
    over = spread(values) if values else None
    return Figure(None if over is None else over.mean, None, None, scored, unscored, over)


def _quality(seeds: Sequence[ForgetQuality | None]) -> ForgetQuality | None:
    """The mean of log p, whose power is the geometric mean of p, and the mean statistic."""
    known = [each for each in seeds if each is not None]
    if not known:
        return None
    log10_p = fmean(each.log10_p for each in known)
    statistic = fmean(each.statistic for each in known)
    return replace(known[0], p_value=10**log10_p, log10_p=log10_p, statistic=statistic)
