from fractions import Fraction
from math import comb, exp, log, log10, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from measured import scored
from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate_eval.forget_quality import count_paths, forget_quality, log_share_of_equal, log_share_of_paths, p_of


def forget_records(log_ratios: list[float]):
    """Records with these logarithms of the truth ratio, each of its own question."""
    return [scored(Role.FORGET, log_ratio, [0.0], index=i, question=f"q{i}") for i, log_ratio in enumerate(log_ratios)]


def test_samples_that_do_not_overlap_saturate_at_2_over_the_number_of_orders() -> None:
    quality = forget_quality(forget_records([1.0, 2.0, 3.0]), forget_records([-1.0, -2.0, -3.0]))
    assert quality is not None
    assert quality.statistic == 1
    assert quality.p_value == pytest.approx(0.1, abs=1e-15)  # 2 / C(6, 3) = 2 / 20
    assert quality.log10_p == pytest.approx(-1, abs=1e-12)
    assert quality.smallest_log10_p == pytest.approx(-1, abs=1e-12)


def test_the_same_model_is_not_told_from_itself() -> None:
    records = forget_records([0.5, -0.5, 2.0, 0.1])
    quality = forget_quality(records, records)
    assert quality is not None
    assert (quality.statistic, quality.p_value, quality.log10_p) == (0, 1, 0)


def test_log10_p_goes_on_where_p_underflows() -> None:
    n = 600  # C(1200, 600) is about 10^359
    quality = forget_quality(forget_records([1.0 + i for i in range(n)]), forget_records([-1.0 - i for i in range(n)]))
    assert quality is not None
    assert quality.p_value == 0
    assert quality.log10_p == pytest.approx(log10(2) - log10(comb(2 * n, n)), rel=1e-12)
    assert quality.log10_p < -350


def test_counting_orders_by_hand() -> None:
    # n = m = 2: of the 6 orders the 2 without overlap reach 1, all reach 1/2 (the first and last items differ or not).
    assert count_paths(1.0, 2, 2) == (2, 6)
    assert count_paths(0.5, 2, 2) == (6, 6)
    assert count_paths(0.0, 2, 2) == (6, 6)
    # n = 1, m = 2: orders XYY, YXY, YYX have largest distances 1, 1/2, 1.
    assert count_paths(1.0, 1, 2) == (2, 3)
    assert count_paths(0.5, 1, 2) == (3, 3)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=15, unique=True),
    st.lists(st.floats(-5, 5), min_size=1, max_size=15, unique=True),
)
def test_p_is_that_of_scipys_exact_test(a: list[float], b: list[float]) -> None:
    expected = ks_2samp(a, b, method="exact")
    reaching, total = count_paths(float(expected.statistic), len(a), len(b))
    assert float(Fraction(reaching, total)) == pytest.approx(expected.pvalue, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(300, 300), (400, 400), (120, 97)])
def test_p_is_that_of_scipys_exact_test_for_usual_sizes(n: int, m: int) -> None:
    rng = np.random.default_rng(0)
    expected = ks_2samp(rng.normal(size=n), rng.normal(0.3, size=m), method="exact")
    reaching, total = count_paths(float(expected.statistic), n, m)
    assert reaching / total == pytest.approx(expected.pvalue, rel=1e-9)


@pytest.mark.parametrize(
    ("statistic", "n", "m"), [(0.5, 60, 57), (1.0, 40, 40), (0.025, 40, 40), (0.0, 3, 2), (1.0, 1, 2)]
)
def test_paths_in_logs_are_those_in_integers(statistic: float, n: int, m: int) -> None:
    reaching, total = count_paths(statistic, n, m)
    assert log_share_of_paths(statistic, n, m) == pytest.approx(log(reaching) - log(total), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("statistic", [1.0, 0.3, 0.04])
def test_p_of_large_samples(statistic: float) -> None:
    """Of equal sizes by reflection (Hodges 1958, eq. 2.3): 2 sum over k of (-1)^(k - 1) C(2n, n - k h) / C(2n, n)."""
    n = 1500
    h = round(statistic * n)
    reaching = 2 * sum((-1) ** (k - 1) * comb(2 * n, n - k * h) for k in range(1, n // h + 1))
    p, log10_p = p_of(statistic, n, n)
    assert log10_p == pytest.approx(log10(reaching) - log10(comb(2 * n, n)), rel=1e-10)
    assert p == pytest.approx(float(Fraction(reaching, comb(2 * n, n))), rel=1e-9)


def test_items_without_a_finite_ratio_are_counted_not_used() -> None:
    reference = forget_records([0.0, 1.0, 2.0])
    quality = forget_quality(forget_records([0.0, nan, 2.0]), reference)
    assert quality is not None
    assert (quality.scored, quality.unscored, quality.reference_scored, quality.reference_unscored) == (2, 1, 3, 0)
    assert forget_quality(forget_records([nan] * 3), reference) is None


def test_only_the_forget_set_counts() -> None:
    records = forget_records([0.0, 1.0])
    retain = [scored(Role.RETAIN, -9.0, [0.0], question="q9")]
    assert forget_quality(records + retain, records) == forget_quality(records, records)


def test_a_retain_model_measured_on_other_questions_is_an_error() -> None:
    with pytest.raises(UserError, match="not of the same questions"):
        forget_quality(forget_records([0.0, 1.0]), forget_records([0.0]))


@given(st.integers(1, 40), st.integers(0, 40))
def test_of_equal_samples_the_share_is_a_short_sum(n: int, difference: int) -> None:
    statistic = min(difference, n) / n
    reaching, total = count_paths(statistic, n, n)
    assert exp(log_share_of_equal(statistic, n)) == pytest.approx(reaching / total, rel=1e-9)


def test_ten_thousand_items() -> None:
    """Both ways to the same logarithm, where p underflows too."""
    for statistic in (0.005, 0.02, 0.5, 1.0):
        both = log_share_of_equal(statistic, 2000), log_share_of_paths(statistic, 2000, 2000)
        assert both[0] == pytest.approx(both[1], rel=1e-9, abs=1e-9)
    assert p_of(1.0, 10_000, 10_000)[1] == pytest.approx(log10(2) - log10(comb(20_000, 10_000)), rel=1e-12)
