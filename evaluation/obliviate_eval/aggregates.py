"""Numbers made of several sets' and metrics' means: model utility and forget efficacy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from obliviate.data.rows import Role
from obliviate_eval.metrics.base import KEPT
from obliviate_eval.statistics import Figure, Floats, Mean, harmonic_mean, interval

Means = Mapping[tuple[str, Role], Mapping[str, Mean]]  # (set, its role) -> metric -> mean


@dataclass(frozen=True)
class Aggregate:
    """Combines the mean of each of `metrics` on each set that has one of `roles`.

    A number that is absent (no set of that role, or a set of which the metric scored nothing) is left out, and the
    figure says how many were: two models' aggregates compare only if they rest on the same numbers.
    """

    name: str
    title: str
    source: str
    roles: tuple[Role, ...]
    metrics: tuple[str, ...]
    combine: Callable[[Floats], Floats]  # over the last axis

    def figure(self, means: Means) -> Figure:
        """Items are resampled within their sets, all sets at once."""
        sets = [by_metric for (_, role), by_metric in means.items() if role in self.roles]
        absent_roles = set(self.roles) - {role for _, role in means}
        cells = [by_metric[metric] for by_metric in sets for metric in self.metrics]
        present = [cell for cell in cells if cell.scored]
        absent = len(cells) - len(present) + len(absent_roles) * len(self.metrics)
        if not present:
            return Figure(value=None, low=None, high=None, scored=0, unscored=absent)
        value = float(self.combine(np.array([cell.value for cell in present], dtype=np.float64)))
        low, high = None, None
        if all(cell.scored > 1 for cell in present):
            drawn_R = np.all([cell.drawn for cell in present], axis=0)
            low, high = interval(self.combine(np.stack([cell.resampled for cell in present], axis=-1)[drawn_R]))
        return Figure(value=value, low=low, high=high, scored=len(present), unscored=absent)


def _one_minus_mean(value_RK: Floats) -> Floats:
    return np.asarray(1 - value_RK.mean(-1))


_SIX = ("rouge", "probability", "truth_ratio", "token_entropy", "similarity", "entailment")

MODEL_UTILITY = Aggregate(
    name="model_utility",
    title="Model utility: harmonic mean of the six metrics on retain, real authors and world facts (18 numbers)",
    source="arXiv:2410.08109",
    roles=KEPT,
    metrics=_SIX,
    combine=harmonic_mean,
)
NEIGHBOR_UTILITY = Aggregate(
    name="model_utility",
    title="Model utility: harmonic mean of the six metrics on the people next to the forgotten ones (6 numbers)",
    source="arXiv:2410.08109",
    roles=(Role.RETAIN,),
    metrics=_SIX,
    combine=harmonic_mean,
)
FORGET_EFFICACY = Aggregate(
    name="forget_efficacy",
    title="Forget efficacy: 1 - mean of five metrics on the forget set (token entropy left out)",
    source="arXiv:2410.08109",
    roles=(Role.FORGET,),
    metrics=tuple(metric for metric in _SIX if metric != "token_entropy"),
    combine=_one_minus_mean,
)
TOFU_MODEL_UTILITY = Aggregate(
    name="tofu_model_utility",
    title="Model utility of TOFU: harmonic mean of ROUGE, probability and truth ratio on what is kept (9 numbers)",
    source="arXiv:2401.06121, section 2.2",
    roles=KEPT,
    metrics=("rouge", "probability", "truth_ratio"),
    combine=harmonic_mean,
)
