"""A linear probe: it finds what is there, finds nothing where nothing is, and never sees the row that it measures."""

import numpy as np
import pytest
from numpy.typing import NDArray

from obliviate_eval.inside.probe import _folds, probed

Floats = NDArray[np.float64]


def rows(seed: int = 0, *, shift: float, count: int = 30, layer: int = 1) -> list[Floats]:
    """Of each row a true answer and three false ones, in three layers of 8 numbers: noise, but that true ones are
    shifted in one number of one layer."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        states_ALD = random.normal(size=(4, 3, 8))
        states_ALD[0, layer, 5] += shift
        found.append(states_ALD)
    return found


def mean(scores: list[float | None]) -> float:
    return float(np.mean([score for score in scores if score is not None]))


@pytest.mark.parametrize("layer", [0, 2])
def test_what_one_layer_holds_is_found_and_else_nothing(layer: int) -> None:
    assert mean(probed(rows(shift=8.0, layer=layer), 0)) > 0.98
    assert 0.35 < mean(probed(rows(shift=0.0), 0)) < 0.65


def test_what_only_the_row_itself_shares_is_not_learned() -> None:
    """All answers to a question have one state: a probe that saw some of them would know the others, and tell nothing
    of which is true; nor does it where labels are the only difference."""
    random = np.random.default_rng(0)
    states = [np.repeat(random.normal(size=(1, 2, 8)), 4, axis=0) for _ in range(12)]
    assert probed(states, 0) == [0.5] * 12


def test_a_row_that_goes_against_all_others_is_measured_by_them() -> None:
    """Were the row itself among those that train, its own answers would be told apart."""
    states = rows(shift=8.0)
    states[7][0, 1, 5] -= 16.0
    assert probed(states, 0)[7] == 0.0


def test_folds_hold_each_row_once() -> None:
    for count in (3, 5, 13):
        folds = _folds(count, 1)
        assert len(folds) == min(5, count)
        assert sorted(row for fold in folds for row in fold) == list(range(count))


def test_layers_that_are_not_finite_are_left_out() -> None:
    states = rows(shift=8.0)
    states[3][1, 0, 2] = np.nan
    assert mean(probed(states, 0)) > 0.98
    assert probed([each * np.nan for each in states], 0) == [None] * 30
