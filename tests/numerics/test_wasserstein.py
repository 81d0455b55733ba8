"""Opt-Out's parts by hand: the sliced Wasserstein distance and its gradient, world data, FQ and RQ."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from obliviate.data.rows import Role
from obliviate.methods import ALIASES, ParameterRegularizer, Pass, Wasserstein, World, expand
from obliviate.scoring import Stat, TokenScores
from obliviate.train.initial import directions
from obliviate_eval.aggregates import OPT_OUT_FQ, OPT_OUT_RQ
from obliviate_eval.statistics import means, resample

INITIAL = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
WEIGHT = torch.tensor([[3.0, 0.0], [1.0, 1.0]])
AXES = torch.eye(2)


def test_the_distance_by_hand() -> None:
    """On the first axis {0, 1} becomes {1, 3}: 1^2 + 2^2; on the second {0, 2} becomes {0, 1}: 1. The mean is 3."""
    assert float(Wasserstein(directions=2).penalty(INITIAL, WEIGHT, AXES)) == 3
    assert float(Wasserstein(directions=2, reduction="mean").penalty(INITIAL, WEIGHT, AXES)) == 1.5
    assert float(Wasserstein(directions=2, order=1).penalty(INITIAL, WEIGHT, AXES)) == 2  # (1 + 2 + 1) / 2
    assert float(Wasserstein(directions=2, precision="bfloat16").penalty(INITIAL, WEIGHT, AXES)) == 3  # exact there


def test_its_gradient_by_hand() -> None:
    """2 (matched difference) / 2 directions: on the first axis 3 meets 1 and 1 meets 0, on the second 1 meets 2."""
    weight = WEIGHT.clone().requires_grad_()
    Wasserstein(directions=2).penalty(INITIAL, weight, AXES).backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[2, 0], [1, -1]]


def test_a_vector_is_one_point_and_costs_its_squared_move_over_the_dimension() -> None:
    """Over an orthonormal basis the projections' squares sum to the squared length: 9 + 16 over 2."""
    term = Wasserstein(directions=2)
    assert float(term.penalty(torch.tensor([[1.0, 1.0]]), torch.tensor([[4.0, 5.0]]), AXES)) == 12.5


@given(seed=st.integers(0, 2**31), rows=st.integers(1, 20))
def test_rows_that_change_places_cost_nothing(seed: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    initial = torch.randn(rows, 8, generator=generator)
    moved = initial[torch.randperm(rows, generator=generator)]
    term = Wasserstein(directions=10)
    assert float(term.penalty(initial, moved, directions(10, 8, (seed,)))) == pytest.approx(0, abs=1e-10)


@given(seed=st.integers(0, 2**31), cut=st.integers(0, 10))
def test_shares_of_the_directions_add_up(seed: int, cut: int) -> None:
    drawn = directions(10, 8, (seed,))
    initial, moved = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(seed)).unbind()
    term = Wasserstein(directions=10)
    parts = term.penalty(initial, moved, drawn[:cut]) + term.penalty(initial, moved, drawn[cut:])
    assert float(parts) == pytest.approx(float(term.penalty(initial, moved, drawn)), rel=1e-5)


def test_row_shards_have_another_distance() -> None:
    """Why the rows are gathered: two rows that changed places cost nothing together, and something apart."""
    swapped, term = INITIAL.flip(0), Wasserstein(directions=2)
    assert float(term.penalty(INITIAL, swapped, AXES)) == 0
    assert float(sum(term.penalty(INITIAL[i : i + 1], swapped[i : i + 1], AXES) for i in range(2))) == 5


def test_a_small_change_vanishes_in_bfloat16_and_not_in_float32() -> None:
    """bfloat16 has steps of 1/128 above 1: a thousandth is none. Over two axes: 0.001^2 / 2."""
    one, more = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.001, 0.0]])
    assert float(Wasserstein(directions=2, precision="bfloat16").penalty(one, more, AXES)) == 0
    assert float(Wasserstein(directions=2).penalty(one, more, AXES)) == pytest.approx(5e-7, rel=1e-3)


def test_directions_add_up_in_float32_also_behind_bfloat16() -> None:
    """Squares 256 and 1 on two axes: bfloat16 knows 256 and 258, so that a sum of the two in it would be 256."""
    origin, moved = torch.zeros(1, 2), torch.tensor([[16.0, 1.0]])
    assert float(Wasserstein(directions=2, precision="bfloat16").penalty(origin, moved, AXES)) == 257 / 2


def test_directions_are_unit_vectors_and_drawn_anew_for_each_parameter_and_step() -> None:
    drawn = directions(100, 16, (0, 3, 5))
    torch.testing.assert_close(drawn.norm(dim=-1), torch.ones(100))
    assert torch.equal(drawn, directions(100, 16, (0, 3, 5)))
    for other in ((1, 3, 5), (0, 4, 5), (0, 3, 6)):
        assert not torch.equal(drawn, directions(100, 16, other))


def test_published_defaults() -> None:
    term = Wasserstein()
    assert (term.weight, term.directions, term.order, term.reduction) == (0.1, 100, 2, "sum")
    assert isinstance(term, ParameterRegularizer)
    assert term.needs == {}
    assert [each["type"] for each in expand("opt_out")["regularizers"]] == ["gd", "world", "wasserstein"]
    assert ALIASES["opt_out"].startswith("npo+")


def test_world_is_the_mean_over_its_answers_tokens() -> None:
    answer = torch.tensor([[0, 1, 1], [0, 0, 1]], dtype=torch.bool)
    logp = torch.tensor([[0, -1.0, -2.0], [-9.0, -9.0, -4.0]])
    loss = World().loss({Pass.WORLD: TokenScores({Stat.LOGP: logp}, answer, answer)})
    assert float(loss.sum / loss.count) == pytest.approx(7 / 3)


def test_fq_and_rq_by_hand() -> None:
    """FQ: harmonic mean of 1 - 0.5, 1 - 0.5 and 1 - 0.75. RQ: of 1 three times and 0.5 three times."""

    def mean(role: Role, probability: float, rouge: float, truth_ratio: float) -> dict:
        found = means([[probability] * 2, [rouge] * 2, [truth_ratio] * 2], resample(2, 100, [1]))
        return {(role.value, role): dict(zip(("probability", "rouge", "truth_ratio"), found, strict=True))}

    table = {**mean(Role.FORGET, 0.5, 0.5, 0.75), **mean(Role.RETAIN, 1, 1, 1), **mean(Role.WORLD_FACTS, 0.5, 0.5, 0.5)}
    assert OPT_OUT_FQ.estimate(table, {}).value == pytest.approx(3 / (2 + 2 + 4))
    assert OPT_OUT_RQ.estimate(table, {}).value == pytest.approx(6 / (3 + 6))
    gone = {**mean(Role.FORGET, 0, 0, 0), **mean(Role.RETAIN, 1, 0, 1)}
    assert OPT_OUT_FQ.estimate(gone, {}).value == 1
    assert OPT_OUT_RQ.estimate(gone, {}).value == 0
