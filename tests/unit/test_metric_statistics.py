import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hmean

from obliviate_eval.statistics import Figure, harmonic_mean, interval, means, resample


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
