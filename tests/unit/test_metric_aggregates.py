from collections.abc import Callable
from dataclasses import replace

import pytest

from measured import record, scored
from obliviate.data.rows import Role
from obliviate_eval.aggregates import (
    FORGET_EFFICACY,
    MEMORIZATION,
    MODEL_UTILITY,
    NEIGHBOR_UTILITY,
    OVERALL,
    TOFU_MODEL_UTILITY,
    Aggregate,
    Means,
)
from obliviate_eval.metrics.base import KEPT
from obliviate_eval.statistics import Figure, means, resample
from obliviate_eval.suites import SUITES
from obliviate_eval.summary import summarise

SIX = MODEL_UTILITY.metrics


def figure(aggregate: Aggregate, means: Means) -> Figure:
    return aggregate.estimate(means, {}).figure()


def means_of(role: Role, score: Callable[[str], list[float | None]]) -> dict:
    """Means of all six metrics on one set of that role, from each metric's item scores."""
    scores = [score(metric) for metric in SIX]
    found = means(scores, resample(len(scores[0]), 200, [1]))
    return {(role.value, role): dict(zip(SIX, found, strict=True))}


def test_model_utility_is_the_harmonic_mean_of_18_numbers() -> None:
    table: Means = {
        **means_of(Role.RETAIN, lambda metric: [1.0, 1.0]),
        **means_of(Role.REAL_AUTHORS, lambda metric: [0.25, 0.75]),
        **means_of(Role.WORLD_FACTS, lambda metric: [0.25, 0.25]),
        **means_of(Role.FORGET, lambda metric: [0.0, 0.0]),  # doesn't enter
    }
    found = figure(MODEL_UTILITY, table)
    assert found.value == pytest.approx(18 / (6 * 1 + 6 * 2 + 6 * 4))  # = 3/7
    assert (found.scored, found.unscored) == (18, 0)


def test_openunlearnings_published_model_utility() -> None:
    """Its nine means of a 1B retain model and the model utility that it logged of them."""
    published = {
        Role.RETAIN: (0.8802840, 0.8264372, 0.5138098),
        Role.REAL_AUTHORS: (0.3915799, 0.8145, 0.5022027),
        Role.WORLD_FACTS: (0.4279516, 0.8022792, 0.6156097),
    }
    table: dict = {}
    for role, values in published.items():
        of = dict(zip(("probability", "rouge", "truth_ratio"), values, strict=True))
        table |= means_of(role, lambda metric, of=of: [of.get(metric, 0.0)] * 2)  # type: ignore[misc]
    assert figure(TOFU_MODEL_UTILITY, table).value == pytest.approx(0.5892923, abs=2e-7)


def test_memorization_is_the_harmonic_mean_of_what_is_gone() -> None:
    scores = {"extraction_strength": 0.5, "exact_memorization": 0.75, "paraphrased_probability": 0.0}
    row = dict(zip(scores, means([[value] * 2 for value in scores.values()], resample(2, 50, [0])), strict=True))
    found = figure(MEMORIZATION, {("forget", Role.FORGET): row})
    assert found.value == pytest.approx(3 / (1 / 0.5 + 1 / 0.25 + 1 / 1.0))  # = 3/7
    assert (found.scored, found.unscored) == (3, 1)  # nobody measured the extent of knowledge


def test_an_aggregate_of_aggregates_counts_what_is_absent() -> None:
    two, four = means([[0.2, 0.2], [0.4, 0.4]], resample(2, 50, [0]))
    found = OVERALL.estimate({}, {"memorization": two, "utility": four}).figure()
    assert found.value == pytest.approx(2 / (1 / 0.2 + 1 / 0.4))
    assert (found.scored, found.unscored) == (2, 1)  # privacy was not measured
    known = {"memorization": replace(two, scored=3, unscored=1), "utility": replace(four, unscored=5)}
    carried = OVERALL.estimate({}, {}, known).figure()
    assert carried.value == found.value
    assert carried.unscored == 1 + 1 + 5  # the numbers that its parts lack are lacking here


def test_one_number_of_0_makes_model_utility_0() -> None:
    table = {}
    for role in KEPT:
        table |= means_of(role, lambda metric: [0.0, 0.0] if metric == "entailment" else [0.9, 0.8])
    assert figure(MODEL_UTILITY, table).value == 0
    assert figure(TOFU_MODEL_UTILITY, table).value == pytest.approx(0.85)  # entailment isn't among its nine


def test_an_absent_set_and_an_unscored_metric_are_left_out_and_counted() -> None:
    table = means_of(Role.RETAIN, lambda metric: [None, None] if metric == "entailment" else [0.5, 0.5])
    found = figure(MODEL_UTILITY, table)
    assert found.value == pytest.approx(0.5)
    assert (found.scored, found.unscored) == (5, 13)  # of 18: two whole sets and one metric
    assert figure(NEIGHBOR_UTILITY, table).unscored == 1  # its six numbers are of one set
    nothing = figure(FORGET_EFFICACY, table)
    assert (nothing.value, nothing.low, nothing.scored, nothing.unscored) == (None, None, 0, 5)


def test_forget_efficacy_is_1_minus_the_mean_of_five() -> None:
    values = dict(zip(SIX, [0.1, 0.2, 0.3, 1.0, 0.4, 0.5], strict=True))  # token entropy 1.0: left out
    found = figure(FORGET_EFFICACY, means_of(Role.FORGET, lambda metric: [values[metric]] * 4))
    assert found.value == pytest.approx(1 - (0.1 + 0.2 + 0.3 + 0.4 + 0.5) / 5)  # = 0.7
    assert (found.low, found.high) == (pytest.approx(0.7), pytest.approx(0.7))  # equal scores have no spread
    assert found.scored == 5


def test_the_interval_resamples_items_of_all_metrics_together() -> None:
    # Two metrics that always add up to 1 on an item: their mean is 0.5 under every resample.
    def score(metric: str) -> list[float | None]:
        up: list[float | None] = [0.0, 0.2, 0.9, 1.0]
        return up if metric == "rouge" else [None if u is None else 1 - u for u in up]

    table = means_of(Role.FORGET, lambda metric: score(metric) if metric in ("rouge", "probability") else [None] * 4)
    found = figure(FORGET_EFFICACY, table)
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == (pytest.approx(0.5), pytest.approx(0.5))


def test_summary_does_not_depend_on_the_order_of_records() -> None:
    records = [
        scored(role, -0.1 * i, [-1.0, -0.2 * i], index=i, generation="the cat" if i % 2 else "a dog")
        for role in (Role.RETAIN, Role.FORGET)
        for i in range(9)
    ]
    suite = SUITES["closer_look"]
    summary = summarise(records, suite, resamples=200)
    assert summarise(records[::-1], suite, resamples=200) == summary
    assert list(summary.sets) == ["forget", "retain"]
    assert summarise(records, suite, resamples=200, seed=1).sets != summary.sets  # another seed, other intervals


def test_a_set_figures_are_the_same_beside_other_sets() -> None:
    retain = [scored(Role.RETAIN, -0.1 * i, [-1.0], index=i) for i in range(9)]
    forget = [record(Role.FORGET, generation="the cat")]
    suite = SUITES["closer_look"]
    alone = summarise(retain, suite, resamples=200)
    assert summarise(retain + forget, suite, resamples=200).sets["retain"] == alone.sets["retain"]
    assert alone.sets["retain"]["rouge"].unscored == 9  # nothing was generated
