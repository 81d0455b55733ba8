"""Do two models differ? Paired tests on the same items, metric by metric.

Shapes: I items of one set, M metrics, P permutations. The same questions are hard for both models, so that the
difference of each item is far less noisy than the two models' intervals side by side suggest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np

from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate.runs import write_json
from obliviate.schema import Spec
from obliviate_eval.metrics import AnyMetric
from obliviate_eval.metrics.comparison import Sample
from obliviate_eval.records import Record
from obliviate_eval.statistics import Estimate, Floats, interval, means
from obliviate_eval.suites.base import Suite
from obliviate_eval.summary import Estimates, draw, estimate

PERMUTATIONS = 9999


@dataclass(frozen=True)
class Difference:
    """The second model's figure less the first's, with its 95 % bootstrap interval and what it rests on.

    `p_permutation`: two-sided, under the hypothesis that each item's two results might as well be swapped; at least
    1 / 10000, because the swaps are drawn. `p_sign`: two-sided sign test, which knows only which of the two is higher
    on an item. `p_adjusted`: the permutation test's p after Benjamini and Hochberg (1995), over all metrics of all
    sets: of the differences below 0.05, at most 5 % are expected to be none. None: not defined of this figure, or too
    little was scored.
    """

    value: float | None
    low: float | None
    high: float | None
    p_permutation: float | None
    p_sign: float | None
    p_adjusted: float | None
    paired: int  # of a metric: items that it scored for both models; of others: what the smaller figure rests on
    unpaired: int  # what entered for one model alone, or for neither


class Differences(Spec):
    suite: str
    sets: dict[str, dict[str, Difference]]  # set -> metric -> difference
    comparisons: dict[str, Difference]
    aggregates: dict[str, Difference]

    def write(self, path: Path) -> None:
        write_json(path, self.model_dump(mode="json"))


def paired(
    first: Sequence[Record],
    second: Sequence[Record],
    suite: Suite,
    *,
    resamples: int = 1000,
    seed: int = 0,
    reference_records: Sequence[Record] | None = None,
) -> Differences:
    """Every figure of the suite, second less first. Raises UserError where they were asked different questions.

    Both models are resampled with the same draws. Comparisons and aggregates of them have an interval and no test.
    """
    _same_items(first, second)
    estimates = [
        estimate(each, suite, resamples=resamples, seed=seed, reference_records=reference_records)
        for each in (first, second)
    ]
    samples = [draw(each, resamples, seed) for each in (first, second)]
    sets: dict[str, dict[str, Difference]] = {}
    swapped: list[dict[tuple[str, Role], dict[str, Estimate]]] = [{}, {}]
    for name, sample in samples[0].items():
        if metrics := suite.metrics_of(name, sample.role):
            tested = _Tested.of(metrics, sample, samples[1][name], [seed, crc32(name.encode())])
            sets[name] = tested.differences
            for table, cells in zip(swapped, tested.swapped, strict=True):
                table[name, sample.role] = cells
    return Differences(
        suite=suite.name,
        sets=_adjusted(sets),
        comparisons={
            name: _difference(found, estimates[1].comparisons[name]) for name, found in estimates[0].comparisons.items()
        },
        aggregates=_aggregates(suite, estimates, swapped),
    )


@dataclass(frozen=True)
class _Tested:
    """One set: each metric's difference, and both models' means when items are swapped between them at random."""

    differences: dict[str, Difference]
    swapped: tuple[dict[str, Estimate], dict[str, Estimate]]

    @classmethod
    def of(cls, metrics: Sequence[AnyMetric], first: Sample, second: Sample, seed: Sequence[int]) -> "_Tested":
        rng = np.random.default_rng([*seed, 1])  # not the bootstrap's own draws
        sign_PI = rng.choice(np.array([-1.0, 1.0]), size=(PERMUTATIONS, len(first.records)))
        differences: dict[str, Difference] = {}
        swapped = (dict[str, Estimate](), dict[str, Estimate]())
        for metric in metrics:
            scores = [[metric.of(record) for record in sample.records] for sample in (first, second)]
            pairs = [None if a is None or b is None else (a, b) for a, b in zip(*scores, strict=True)]
            known_I = np.array([pair is not None for pair in pairs])
            a_I, b_I = np.array([pair for pair in pairs if pair is not None], dtype=np.float64).reshape(-1, 2).T
            [found] = means([[None if pair is None else pair[1] - pair[0] for pair in pairs]], first.counts_RI)
            moved_P = sign_PI[:, known_I] @ (b_I - a_I) / max(1, len(a_I))  # mean difference after each swap
            differences[metric.type] = replace(
                _of_estimate(found),
                p_permutation=permutation_p(found.value, moved_P),
                p_sign=sign_p(b_I - a_I),
            )
            for table, direction in zip(swapped, (-1, 1), strict=True):
                middle = (a_I.sum() + b_I.sum()) / 2 / max(1, len(a_I))
                table[metric.type] = replace(
                    found, resampled=middle + direction * moved_P / 2, drawn=np.ones(PERMUTATIONS, dtype=np.bool_)
                )
        return cls(differences, swapped)


def permutation_p(observed: float | None, moved_P: Floats) -> float | None:
    """Two-sided; the observed order counts as one of the permutations (Phipson and Smyth 2010)."""
    if observed is None:
        return None
    reached = np.abs(moved_P) >= abs(observed) * (1 - 1e-12)  # the same sum in another order differs by ulps
    return float((1 + reached.sum()) / (1 + len(moved_P)))


def sign_p(difference_I: Floats) -> float | None:
    """Two-sided; ties say nothing and are left out. None where there are only ties."""
    from scipy.stats import binomtest

    higher, lower = int((difference_I > 0).sum()), int((difference_I < 0).sum())
    return float(binomtest(higher, higher + lower).pvalue) if higher + lower else None


def _aggregates(
    suite: Suite, estimates: Sequence[Estimates], swapped: Sequence[Mapping[tuple[str, Role], Mapping[str, Estimate]]]
) -> dict[str, Difference]:
    found = {}
    for aggregate in suite.aggregates:
        one, other = (each.aggregates[aggregate.name] for each in estimates)
        difference = _difference(one, other)
        if not aggregate.parts and difference.value is not None:
            moved = [aggregate.estimate(table, {}).resampled for table in swapped]
            if all(len(each) == PERMUTATIONS for each in moved):
                p_value = permutation_p(difference.value, moved[1] - moved[0])
                difference = replace(difference, p_permutation=p_value)
        found[aggregate.name] = difference
    return found


def _difference(first: Estimate, second: Estimate) -> Difference:
    """Of two figures under the same resamples."""
    paired, unpaired = min(first.scored, second.scored), max(first.unscored, second.unscored)
    if first.value is None or second.value is None:
        return Difference(None, None, None, None, None, None, 0, paired + unpaired)
    drawn_R = first.drawn & second.drawn
    low, high = interval((second.resampled - first.resampled)[drawn_R])
    return Difference(second.value - first.value, low, high, None, None, None, paired, unpaired)


def _of_estimate(found: Estimate) -> Difference:
    figure = found.figure()
    return Difference(figure.value, figure.low, figure.high, None, None, None, figure.scored, figure.unscored)


def _adjusted(sets: Mapping[str, Mapping[str, Difference]]) -> dict[str, dict[str, Difference]]:
    from scipy.stats import false_discovery_control

    tests = {
        (name, metric): found.p_permutation
        for name, row in sets.items()
        for metric, found in row.items()
        if found.p_permutation is not None
    }
    adjusted = dict(zip(tests, false_discovery_control(list(tests.values())) if tests else (), strict=True))
    return {
        name: {
            metric: replace(found, p_adjusted=float(adjusted[name, metric])) if (name, metric) in adjusted else found
            for metric, found in row.items()
        }
        for name, row in sets.items()
    }


def _same_items(first: Sequence[Record], second: Sequence[Record]) -> None:
    items = [{(record.set, record.index, record.question) for record in records} for records in (first, second)]
    if items[0] != items[1]:
        missing = items[0] ^ items[1]
        example = min(missing)
        raise UserError(
            f"the models were not measured on the same items: {len(missing)} are of one alone, the first in set "
            f"{example[0]!r}, item {example[1]}; evaluate both on the same data"
        )
