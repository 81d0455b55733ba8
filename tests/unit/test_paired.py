"""Paired tests between two models on the same items."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import permutation_test, wilcoxon

from measured import scored
from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate_eval.metrics import Probability
from obliviate_eval.paired import PERMUTATIONS, Difference, Differences, paired, permutation_p, sign_p
from obliviate_eval.records import Record
from obliviate_eval.suites import SUITES
from obliviate_eval.suites.base import Suite

ALONE = Suite(name="alone", title="", metrics=(Probability(),))


def records(logps: Sequence[float], role: Role = Role.FORGET) -> list[Record]:
    return [scored(role, logp, [], index=i, question=f"q{i}") for i, logp in enumerate(logps)]


def probability(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Of two models with these probabilities of each item."""
    tables = [records(list(np.log(each))) for each in (first, second)]
    return paired(*tables, ALONE, resamples=500).sets["forget"]["probability"]


def test_a_difference_by_hand() -> None:
    # Second less first: 0.1, 0.2 and 0.3. Of the 8 ways to swap, 2 reach a mean of 0.2: p = 0.25.
    found = probability([0.1, 0.2, 0.3], [0.2, 0.4, 0.6])
    assert found.value == pytest.approx(0.2)
    assert found.p_permutation == pytest.approx(0.25, abs=0.02)  # drawn: standard deviation 0.0043
    assert found.p_sign == 0.25  # 3 of 3 higher: 2 / 2^3
    assert found.p_adjusted == found.p_permutation  # one test
    assert (found.paired, found.unpaired) == (3, 0)
    assert found.low is not None
    assert found.high is not None
    assert 0.1 - 1e-12 <= found.low < 0.2 < found.high <= 0.3 + 1e-12  # those of one item alone


def test_a_model_does_not_differ_from_itself() -> None:
    found = probability([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert found.p_permutation == 1
    assert found.p_sign is None  # nothing but ties


def test_permutation_p_is_scipys() -> None:
    rng = np.random.default_rng(3)
    first = rng.uniform(0.2, 0.8, size=60)
    second = np.clip(first + rng.normal(0.02, 0.08, size=60), 0.01, 0.99)
    expected = permutation_test(
        (first, second), lambda a, b, axis: (b - a).mean(axis), permutation_type="samples", vectorized=True,
        n_resamples=9999, rng=1, batch=500,
    )  # fmt: skip
    found = probability(list(first), list(second))
    assert 0.001 < expected.pvalue < 0.5  # else the comparison says little
    assert found.p_permutation == pytest.approx(expected.pvalue, abs=0.02)


def test_pairing_sees_what_two_intervals_do_not() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(0.1, 0.8, size=50)  # hard and easy questions
    second = first + 0.02  # a little better on each
    found = probability(list(first), list(second))
    assert (found.low, found.high) == (pytest.approx(0.02), pytest.approx(0.02))
    assert found.p_permutation == 1 / (1 + PERMUTATIONS)
    assert found.p_sign == pytest.approx(2 / 2**50)
    assert wilcoxon(first, second).pvalue < 1e-6


def test_items_scored_for_one_model_alone_are_left_out_and_counted() -> None:
    one, other = records([-1.0, -2.0, float("nan")]), records([-1.5, float("nan"), -3.0])
    found = paired(one, other, ALONE, resamples=200).sets["forget"]["probability"]
    assert found.value == pytest.approx(np.exp(-1.5) - np.exp(-1.0))
    assert (found.paired, found.unpaired) == (1, 2)
    assert found.low is None


def test_nothing_scored_has_no_difference() -> None:
    nothing = records([float("nan")] * 3)
    found = paired(nothing, nothing, ALONE, resamples=200).sets["forget"]["probability"]
    assert found == Difference(None, None, None, None, None, None, 0, 3)


def test_p_values_are_adjusted_over_all_metrics() -> None:
    rng = np.random.default_rng(1)
    logps = list(np.log(rng.uniform(0.1, 0.9, size=30)))
    one = [scored(Role.FORGET, p, [-1.0], index=i, generation="the cat") for i, p in enumerate(logps)]
    other = [scored(Role.FORGET, p - 0.1, [-1.0], index=i, generation="the cat") for i, p in enumerate(logps)]
    found = paired(one, other, SUITES["tofu"], resamples=200).sets["forget"]
    assert found["rouge"].p_adjusted == 1
    tested = sorted(
        (each.p_permutation, each.p_adjusted)
        for each in found.values()
        if each.p_permutation is not None and each.p_adjusted is not None
    )
    # Benjamini and Hochberg by hand: p times tests over rank, made monotone from above.
    expected = [p * len(tested) / (rank + 1) for rank, (p, _) in enumerate(tested)]
    monotone = np.minimum.accumulate(expected[::-1])[::-1]
    assert [adjusted for _, adjusted in tested] == pytest.approx(list(np.minimum(monotone, 1)))
    assert found["probability"].p_adjusted is not None
    assert found["probability"].p_adjusted > 1 / (1 + PERMUTATIONS)


def test_aggregates_are_permuted_and_comparisons_only_resampled() -> None:
    rng = np.random.default_rng(2)
    first = [*records(list(np.log(rng.uniform(0.3, 0.9, size=20)))), *records([-2.0] * 5, Role.HOLDOUT)]
    worse = [
        scored(
            each.role, (each.answers["answer"][0].mean_logp or 0) - 1.0, [], index=each.index, question=each.question
        )
        for each in first
    ]
    found = paired(first, worse, SUITES["tofu"], resamples=200)
    assert set(found.sets) == {"forget"}
    memory = found.aggregates["memorization"]
    assert memory.value is not None
    assert memory.value > 0  # a paraphrase less likely: more forgotten
    assert memory.p_permutation == 1 / (1 + PERMUTATIONS)
    attack = found.comparisons["mia_loss"]
    assert attack.value == pytest.approx(0)  # both sets moved alike
    assert (attack.low, attack.high) == (pytest.approx(0), pytest.approx(0))
    assert attack.p_permutation is None
    back = paired(worse, first, SUITES["tofu"], resamples=200).aggregates["memorization"]
    assert back.value == pytest.approx(-memory.value)
    assert (back.low, back.high) == (pytest.approx(-(memory.high or 0)), pytest.approx(-(memory.low or 0)))


def test_p_values_by_hand() -> None:
    assert permutation_p(0.5, np.array([0.5, -0.5, 0.1])) == 0.75  # (1 + 2) / (1 + 3)
    assert permutation_p(None, np.zeros(3)) is None
    assert sign_p(np.array([1.0, 1.0, -1.0, 0.0])) == 1.0  # 2 of 3
    assert sign_p(np.array([1.0] * 5)) == pytest.approx(2 / 32)


def test_models_measured_on_other_items_are_an_error() -> None:
    with pytest.raises(UserError, match=r"1 are of one alone, the first in set 'forget', item 2; evaluate both"):
        paired(records([-1.0, -2.0]), records([-1.0, -2.0, -3.0]), ALONE)


def test_differences_come_back_from_json() -> None:
    found = paired(records([-1.0, -2.0]), records([-1.5, -2.0]), ALONE, resamples=200)
    assert Differences.model_validate_json(found.model_dump_json()) == found
