import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hmean

from obliviate_eval.statistics import (
    Estimate,
    Figure,
    Spread,
    auc,
    drawn_from,
    harmonic_mean,
    interval,
    means,
    nothing,
    resample,
    spread,
)


def figure(scores: list[float | None], seed: int = 0) -> Figure:
    return means([scores], resample(len(scores), 1000, [seed]))[0].figure()


def test_a_mean_is_over_the_scored_items_and_says_how_many() -> None:
    found = figure([0.0, None, 1.0, 1.0, None])
    assert found.value == pytest.approx(2 / 3)
    assert (found.scored, found.unscored) == (3, 2)
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= 2 / 3 <= found.high <= 1


def test_nothing_scored_has_no_value_and_a_single_item_no_interval() -> None:
    assert figure([None, None]) == Figure(None, None, None, scored=0, unscored=2)
    assert figure([0.25, None]) == Figure(0.25, None, None, scored=1, unscored=1)


def test_equal_scores_have_no_spread() -> None:
    assert figure([0.5] * 20) == Figure(0.5, 0.5, 0.5, scored=20, unscored=0)


def test_a_resample_draws_as_many_items_as_there_are_and_the_seed_decides_which() -> None:
    counts_RI = resample(7, 100, [3, 5])
    assert counts_RI.shape == (100, 7)
    assert (counts_RI.sum(1) == 7).all()
    assert (resample(7, 100, [3, 5]) == counts_RI).all()
    assert (resample(7, 100, [3, 6]) != counts_RI).any()


def test_a_resampled_mean_weighs_items_by_how_often_they_were_drawn() -> None:
    counts_RI = np.array([[2.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
    first, second = means([[0.3, 0.6, 0.9], [1.0, 1.0, None]], counts_RI)
    assert first.resampled.tolist() == pytest.approx([(2 * 0.3 + 0.6) / 3, 0.9])
    assert second.resampled[0] == 1.0
    assert second.drawn.tolist() == [True, False]  # the second resample holds no item that was scored


def test_the_interval_of_a_mean_has_the_width_that_theory_gives() -> None:
    # 400 scores, half 0 and half 1: standard error 0.5 / 20 = 0.025, the interval 0.5 +- 1.96 * 0.025 = 0.049.
    found = figure([0.0, 1.0] * 200)
    assert found.low == pytest.approx(0.451, abs=0.006)
    assert found.high == pytest.approx(0.549, abs=0.006)


def test_19_of_20_intervals_hold_the_true_mean() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        found = figure([float(x) for x in rng.random(100) < 0.3], seed=trial)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.3 <= found.high
    # 190 are expected with a standard deviation of 3; a percentile interval of 100 items is a little narrow.
    assert 178 <= held <= 199


def test_an_interval_leaves_two_and_a_half_per_cent_on_either_side() -> None:
    assert interval(np.arange(1001.0)) == pytest.approx((25, 975))
    assert interval(np.array([])) == (None, None)


def test_harmonic_mean_by_hand() -> None:
    assert harmonic_mean(np.array([1.0, 0.5])) == pytest.approx(2 / 3)  # 2 / (1 + 2)
    assert harmonic_mean(np.array([[0.25, 0.25], [1.0, 0.0]])).tolist() == [0.25, 0.0]  # any 0 makes it 0


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=20))
def test_harmonic_mean_is_scipys(values: list[float]) -> None:
    assert float(harmonic_mean(np.array(values))) == pytest.approx(float(hmean(values)), rel=1e-12)


def test_the_spread_over_seeds_by_hand() -> None:
    """1, 2, 4: mean 7/3, standard deviation sqrt(7/3), t of 2 degrees of freedom 4.302653."""
    found = spread([1.0, 2.0, 4.0])
    half = 4.302653 * (7 / 3) ** 0.5 / 3**0.5
    assert (found.mean, found.count) == (pytest.approx(7 / 3), 3)
    assert (found.low, found.high) == (pytest.approx(7 / 3 - half, rel=1e-6), pytest.approx(7 / 3 + half, rel=1e-6))
    two = spread([0.0, 2.0])  # deviation sqrt(2), over sqrt(2); t of one degree of freedom 12.706205
    assert two.high == pytest.approx(1 + 12.706205, rel=1e-6)
    assert spread([3.0]) == Spread(3.0, None, None, 1)


def test_draws_of_a_figure_have_its_intervals_width() -> None:
    """0.5 +- 0.098 is 1.96 standard errors of 0.05 on either side."""
    figure = Figure(0.5, 0.402, 0.598, scored=7, unscored=2)
    found = drawn_from(figure, 40_000, [3])
    assert (found.value, found.scored, found.unscored) == (0.5, 7, 2)
    assert found.resampled.mean() == pytest.approx(0.5, abs=0.001)
    assert found.resampled.std() == pytest.approx(0.05, rel=0.02)
    assert found.drawn.tolist() == [True] * 40_000
    assert found.figure().low == pytest.approx(0.402, abs=0.002)
    assert found.figure().high == pytest.approx(0.598, abs=0.002)
    assert (drawn_from(figure, 10, [3]).resampled == drawn_from(figure, 10, [3]).resampled).all()
    assert (drawn_from(figure, 10, [3]).resampled != drawn_from(figure, 10, [4]).resampled).all()


@pytest.mark.parametrize(
    ("value", "low", "high"), [(None, None, None), (0.3, None, None), (0.3, 0.2, None), (0.3, None, 0.4)]
)
def test_a_figure_without_an_interval_has_no_spread_to_draw_from(
    value: float | None, low: float | None, high: float | None
) -> None:
    found = drawn_from(Figure(value, low, high, scored=7, unscored=2), 3, [0])
    assert (found.value, found.scored, found.unscored) == (value, 7, 2)
    assert found.resampled.tolist() == [value or 0.0] * 3
    assert found.drawn.tolist() == [False] * 3
    assert found.figure() == Figure(value, None, None, 7, 2)


def test_nothing_has_resamples_that_do_not_count() -> None:
    found = nothing(4, 3)
    assert (found.value, found.scored, found.unscored, found.bounds) == (None, 0, 4, None)
    assert (found.resampled.tolist(), found.drawn.tolist()) == ([0.0] * 3, [False] * 3)
    assert found.figure() == Figure(None, None, None, 0, 4)


def test_bounds_of_theory_stand_in_place_of_the_bootstraps() -> None:
    found = Estimate(0.5, np.array([0.4, 0.6]), np.array([True, True]), 2, 1, bounds=(0.1, 0.9))
    assert found.figure() == Figure(0.5, 0.1, 0.9, 2, 1)


def test_resamples_that_hold_too_little_do_not_enter_the_interval() -> None:
    found = Estimate(0.5, np.array([0.5, 9.0]), np.array([True, False]), 2, 0)
    assert found.figure() == Figure(0.5, 0.5, 0.5, 2, 0)


def test_a_single_item_among_resamples_is_never_a_spread() -> None:
    [found] = means([[0.25, None]], np.array([[2.0, 0.0], [1.0, 1.0]]))
    assert found.drawn.tolist() == [False, False]
    [two] = means([[0.25, 0.75]], np.array([[2.0, 0.0], [1.0, 1.0]]))
    assert two.drawn.tolist() == [True, True]
    assert two.resampled.tolist() == [0.25, 0.5]
    [once] = means([[1.0, 0.5, None]], np.array([[1.0, 0.0, 2.0]]))  # a resample with one scored item has its score
    assert (once.resampled.tolist(), once.drawn.tolist()) == ([1.0], [True])


def test_auc_under_a_resample_by_hand() -> None:
    """Low 1 and 2, high 2 and 3. As drawn once each: 2 = 2 counts half, the other three pairs are in order. Under the
    second resample low 2 twice against high 2 thrice: half. A resample without one of the two has no pair."""
    low_RI = np.array([[1.0, 1.0], [0.0, 2.0], [0.0, 0.0], [0.0, 1.0]])
    high_RI = np.array([[1.0, 1.0], [3.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    found, drawn = auc([1.0, 2.0], [2.0, 3.0], low_RI, high_RI)
    assert found.tolist() == [3.5 / 4, 0.5, 0.0, 0.5]
    assert drawn.tolist() == [True, True, False, True]


def test_a_value_below_0_makes_the_harmonic_mean_0() -> None:
    with np.errstate(all="raise"):  # nor does 0 divide
        found = harmonic_mean(np.array([[0.5, -0.5], [2.0, 2.0], [0.5, 1.5], [0.0, 1.0]]))
    assert found.tolist() == [0.0, 2.0, 0.75, 0.0]


def test_an_interval_of_two_values_lies_between_them() -> None:
    assert interval(np.array([0.0, 1.0])) == (pytest.approx(0.025), pytest.approx(0.975))
