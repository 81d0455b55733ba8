"""Numbers made of several others: model utility, forget efficacy, and OpenUnlearning's three scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from types import MappingProxyType

import numpy as np

from obliviate.data.rows import Role
from obliviate_eval.metrics.base import KEPT
from obliviate_eval.records import FORM
from obliviate_eval.statistics import Estimate, Floats, harmonic_mean, nothing

NOTHING_BEFORE: Mapping[str, Estimate] = MappingProxyType({})
Means = Mapping[tuple[str, Role], Mapping[str, Estimate]]  # (set, its role) -> metric -> mean


@dataclass(frozen=True)
class Aggregate:
    """Combines the mean of each of `metrics` on each set that has one of `roles`, and one of the names or patterns of
    `sets` where there are any, the numbers named by `parts` (comparisons, and aggregates that stand before it in the
    suite) and the accuracies of the harness's `tasks`. `combine`: None takes the mean over all items, each set's figure
    counting as often as it has items.

    A number that is absent (no set of that role, or a set of which the metric scored nothing) is left out, and the
    figure says how many were: two models' aggregates compare only if they rest on the same numbers. The forms that
    items are asked in besides do not count: each has a scale of its own.
    """

    name: str
    title: str
    source: str
    roles: tuple[Role, ...]
    metrics: tuple[str, ...]
    combine: Callable[[Floats], Floats] | None  # over the last axis
    parts: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    turned: tuple[Role, ...] = ()  # the roles whose numbers enter as 1 - theirs

    def estimate(
        self, means: Means, comparisons: Mapping[str, Estimate], before: Mapping[str, Estimate] = NOTHING_BEFORE
    ) -> Estimate:
        """Items are resampled within their sets, all sets at once. `comparisons` hold the accuracies too. `before`: the
        aggregates that are known already; the numbers that are missing in one of them are missing here too."""
        named = {**comparisons, **before}
        wanted = (*self.parts, *self.tasks)
        cells = [named[part] for part in wanted if part in named]
        absent = len(wanted) - len(cells)
        absent += sum(before[part].unscored for part in self.parts if part in before and before[part].value is not None)
        for role in self.roles:
            rows = [row for (name, of), row in means.items() if of is role and self._counts(name)]
            for metric in self.metrics:
                found = [row[metric] for row in rows if metric in row]
                cells += [_turned(cell) for cell in found] if role in self.turned else found
                absent += 0 if found else 1
        present = [cell for cell in cells if cell.value is not None]
        absent += len(cells) - len(present)
        if not present:
            return nothing(absent, resamples=0)
        combine = self.combine or partial(_over_items, [cell.scored for cell in present])
        value = float(combine(np.array([cell.value for cell in present], dtype=np.float64)))
        resampled_R = combine(np.stack([cell.resampled for cell in present], axis=-1))
        drawn_R = np.all([cell.drawn for cell in present], axis=0)
        return Estimate(value, resampled_R, drawn_R, scored=len(present), unscored=absent)

    def _counts(self, name: str) -> bool:
        return FORM not in name and (not self.sets or any(fnmatchcase(name, pattern) for pattern in self.sets))


def _over_items(items_K: Sequence[int], value_RK: Floats) -> Floats:
    return np.asarray(np.average(value_RK, axis=-1, weights=items_K))


def _turned(cell: Estimate) -> Estimate:
    return replace(cell, value=None if cell.value is None else 1 - cell.value, resampled=1 - cell.resampled)


def mean(value_RK: Floats) -> Floats:
    return np.asarray(value_RK.mean(-1))


_THREE = ("rouge", "probability", "truth_ratio")  # TOFU's
_SIX = (*_THREE, "token_entropy", "similarity", "entailment")

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
    combine=mean,
    turned=(Role.FORGET,),
)
TOFU_MODEL_UTILITY = Aggregate(
    name="tofu_model_utility",
    title="Model utility of TOFU: harmonic mean of ROUGE, probability and truth ratio on what is kept (9 numbers)",
    source="arXiv:2401.06121, section 2.2",
    roles=KEPT,
    metrics=_THREE,
    combine=harmonic_mean,
)
OPT_OUT_FQ = Aggregate(
    name="opt_out_fq",
    title="FQ of Opt-Out: harmonic mean of 1 - probability, ROUGE and truth ratio on the forget set",
    source="arXiv:2406.12329v3",
    roles=(Role.FORGET,),
    metrics=_THREE,
    combine=harmonic_mean,
    turned=(Role.FORGET,),
)
OPT_OUT_RQ = Aggregate(
    name="opt_out_rq",
    title="RQ of Opt-Out: harmonic mean of probability, ROUGE and truth ratio on neighbours and world (6 numbers)",
    source="arXiv:2406.12329v3",
    roles=(Role.RETAIN, Role.WORLD_FACTS),
    metrics=_THREE,
    combine=harmonic_mean,
)
MEMORIZATION = Aggregate(
    name="memorization",
    title="Memorisation score: harmonic mean of 1 - four metrics of the forget set; high where nothing is left",
    source="arXiv:2506.12618",
    roles=(Role.FORGET,),
    metrics=("extraction_strength", "exact_memorization", "paraphrased_probability", "extent_of_knowledge"),
    combine=harmonic_mean,
    turned=(Role.FORGET,),
)
UTILITY = Aggregate(
    name="utility",
    title="Utility score: harmonic mean of TOFU's model utility and the fluency of forget answers",
    source="arXiv:2506.12618",
    roles=(Role.FORGET,),
    metrics=("fluency",),
    combine=harmonic_mean,
    parts=("tofu_model_utility",),
)
OVERALL = Aggregate(
    name="overall",
    title="Overall score: harmonic mean of memorisation, privacy and utility scores",
    source="arXiv:2506.12618",
    roles=(),
    metrics=(),
    combine=harmonic_mean,
    parts=("memorization", "privacy", "utility"),
)
