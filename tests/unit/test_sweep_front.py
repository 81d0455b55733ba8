"""The front, the area below it, and the rules that choose a point: by hand, and as properties."""

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obliviate_eval.report.sweep import Region
from obliviate_eval.statistics import spread
from obliviate_recipes.sweeps.front import best_first, front, hypervolume, knee, most_forgotten, weighted
from obliviate_recipes.sweeps.ranking import choose, rank, regions
from obliviate_recipes.sweeps.records import TrialRecord
from obliviate_recipes.sweeps.spec import Knee, UtilityAtLeast, WeightedSum

A, B, C = (0.2, 0.9), (0.7, 0.8), (0.9, 0.1)  # a front; B bulges out
INSIDE = (0.6, 0.5)  # below B in both
pairs = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12)


def test_the_front_by_forget_ascending() -> None:
    assert front([INSIDE, C, A, B]) == [2, 3, 1]


def test_equal_in_one_figure_and_worse_in_the_other_is_dominated() -> None:
    assert front([(0.5, 0.5), (0.5, 0.4), (0.4, 0.5)]) == [0]


def test_equal_points_stay_both() -> None:
    assert sorted(front([(0.5, 0.5), (0.5, 0.5)])) == [0, 1]


def test_hypervolume_by_hand() -> None:
    """C: 0.9 x 0.1; B above it: 0.7 x (0.8 - 0.1); A above that: 0.2 x (0.9 - 0.8)."""
    assert hypervolume([A, B, C, INSIDE]) == pytest.approx(0.09 + 0.49 + 0.02)
    assert hypervolume([B], reference=(0.5, 0.5)) == pytest.approx(0.2 * 0.3)
    assert hypervolume([(0.0, 1.0), (1.0, 0.0)]) == 0
    assert hypervolume([]) == 0


@given(pairs)
def test_nothing_dominates_the_front_and_it_dominates_the_rest(found: list[tuple[float, float]]) -> None:
    on_front = front(found)
    for i, mine in enumerate(found):
        dominated = any(o[0] >= mine[0] and o[1] >= mine[1] and o != mine for o in found)
        assert (i in on_front) is not dominated


@given(pairs)
def test_the_front_alone_has_the_whole_area(found: list[tuple[float, float]]) -> None:
    area = hypervolume(found)
    assert hypervolume([found[i] for i in front(found)]) == pytest.approx(area)
    assert max(f * u for f, u in found) <= area + 1e-12
    assert area <= max(f for f, _ in found) * max(u for _, u in found) + 1e-12


@given(pairs, st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_another_point_never_takes_area_away(found: list[tuple[float, float]], more: tuple[float, float]) -> None:
    assert hypervolume([*found, more]) >= hypervolume(found) - 1e-12


def test_the_knee_is_the_point_that_bulges() -> None:
    """Scaled to the front, forget (x - 0.2) / 0.7 and utility (y - 0.1) / 0.8: A 0 + 1, B 0.71 + 0.875, C 1 + 0."""
    assert knee([A, C, INSIDE, B]) == 3


def test_of_two_ends_the_more_useful_is_the_knee() -> None:
    assert knee([C, A]) == 1
    assert knee([B]) == 0


def test_most_forgotten_that_is_useful_enough() -> None:
    assert most_forgotten([A, B, C], 0.8) == 1
    assert most_forgotten([A, B, C], 0.85) == 0
    assert most_forgotten([A, B, C], 0.95) is None


def test_weighted_sum() -> None:
    """At 0.9 on forgetting: A 0.27, B 0.71, C 0.82; at 0: utility alone."""
    assert weighted([A, B, C], 0.9) == 2
    assert weighted([A, B, C], 0.0) == 0


def test_spread_over_seeds() -> None:
    """Mean 2, standard deviation 1, t(0.975, 2) = 4.302653: half width 4.302653 / sqrt(3)."""
    found = spread([1.0, 2.0, 3.0])
    assert (found.mean, found.count) == (2.0, 3)
    assert found.low == pytest.approx(2 - 4.302653 / sqrt(3), abs=1e-6)
    assert found.high == pytest.approx(2 + 4.302653 / sqrt(3), abs=1e-6)
    assert spread([0.5]) == type(found)(0.5, None, None, 1)


def record(beta: float, seed: int, forget: float, utility: float, status: str = "done") -> TrialRecord:
    return TrialRecord(
        f"{beta}-s{seed}", "npo", {"method.beta": beta}, seed, status, forget=forget, utility=utility  # type: ignore[arg-type]
    )  # fmt: skip


def test_ranking_takes_means_over_seeds_and_measured_trials_alone() -> None:
    """beta 0.1: (0.7, 0.5), mean of two seeds; 0.2: (0.6, 0.4), dominated; 0.3 was stopped, 0.4 is the useful end."""
    ranked = rank(
        [
            *(record(0.2, seed, 0.6, 0.4) for seed in (0, 1)),
            record(0.1, 1, 0.8, 0.4),
            record(0.1, 0, 0.6, 0.6),
            *(record(0.3, seed, 1.0, 1.0, "stopped") for seed in (0, 1)),
            *(record(0.4, seed, 0.1, 0.9) for seed in (0, 1)),
        ],
        2,
    )
    assert [each.point.values["method.beta"] for each in ranked] == [0.1, 0.4, 0.2]
    assert [each.on_front for each in ranked] == [True, True, False]
    assert ranked[0].figures == pytest.approx((0.7, 0.5))
    assert [trial.seed for trial in ranked[0].trials] == [0, 1]
    assert ranked[0].forget.low is not None


def test_the_lucky_seeds_of_a_configuration_are_on_no_front_and_are_not_chosen() -> None:
    """beta 0.1 is better in both figures, with the one seed that was not stopped."""
    lucky = [record(0.1, 0, 0.9, 0.9), record(0.1, 1, 0.0, 0.0, "stopped")]
    ranked = rank([*lucky, *(record(0.2, seed, 0.5, 0.5) for seed in (0, 1))], 2)
    assert [(each.point.values["method.beta"], each.on_front, each.complete) for each in ranked] == [
        (0.2, True, True), (0.1, False, False),
    ]  # fmt: skip
    for rule in (Knee(), UtilityAtLeast(share=0.5), WeightedSum()):
        found = choose(ranked, rule, 1.0)
        assert found is not None
        assert found.point.values["method.beta"] == 0.2
    assert choose(rank(lucky, 2), Knee(), 1.0) is None


def test_the_rules() -> None:
    ranked = rank([record(0.1, 0, *A), record(0.2, 0, *B), record(0.3, 0, *C)], 1)

    def beta(rule: Knee | UtilityAtLeast | WeightedSum, original: float = 1.0) -> float | None:
        found = choose(ranked, rule, original)
        return None if found is None else found.point.values["method.beta"]

    assert beta(Knee()) == 0.2
    assert beta(UtilityAtLeast(share=0.85)) == 0.1
    assert beta(UtilityAtLeast(share=0.85), original=0.9) == 0.2  # 0.765 is needed, B has 0.8
    assert beta(UtilityAtLeast(share=1.0)) is None
    assert beta(WeightedSum(forget_weight=0.9)) == 0.3
    assert choose([], Knee(), 1.0) is None


def test_regions_are_the_front_cut_by_utility() -> None:
    """For a utility of 0.8 ... 0.9 gd forgets most, 0.2; below that npo, 0.7 and from 0.1 on 0.9; dpo is inside."""
    found = [("gd", A), ("npo", B), ("npo", C), ("dpo", INSIDE), ("collapsed", (1.0, 0.0))]
    records = [TrialRecord(f"{i}-s0", method, {"i": i}, 0, "done", forget=f, utility=u)
               for i, (method, (f, u)) in enumerate(found)]  # fmt: skip
    assert regions(rank(records, 1)) == [Region("gd", 0.8, 0.9, 0.2, 0.2), Region("npo", 0.0, 0.8, 0.7, 0.9)]
    assert regions([]) == []


def test_equal_configurations_of_two_methods_win_together() -> None:
    records = [TrialRecord(f"{m}-s0", m, {}, 0, "done", forget=0.5, utility=0.5) for m in ("gd", "npo")]
    (found,) = regions(rank(records, 1))
    assert sorted(found.method.split(", ")) == ["gd", "npo"]
    assert (found.low, found.high) == (0.0, 0.5)


@given(pairs, st.floats(0.01, 1))
def test_what_wins_is_what_forgets_most_of_those_that_keep_enough(found: list[tuple[float, float]], u: float) -> None:
    records = [TrialRecord(f"{i}-s0", f"m{i}", {}, 0, "done", forget=f, utility=utility)
               for i, (f, utility) in enumerate(found)]  # fmt: skip
    won = next((each for each in regions(rank(records, 1)) if each.low < u <= each.high), None)
    best = most_forgotten(found, u)
    if best is None:
        assert won is None
    else:
        assert won is not None
        assert won.least == found[best][0]
        assert f"m{best}" in won.method.split(", ")


class TestBestFirst:
    def test_layers_and_within_each_the_farthest(self) -> None:
        """The front is 0, 1, 2, 4: the area of 1 is the largest (0.36); from it 0 is farthest (0.46 against 0.41 of 4),
        then 4, then 2. Pair 3 is dominated by 1."""
        pairs = [(0.95, 0.3), (0.6, 0.6), (0.5, 0.65), (0.4, 0.4), (0.3, 0.88)]
        assert best_first(pairs) == [1, 0, 4, 2, 3]

    def test_far_is_far_from_the_nearest_and_not_from_all_together(self) -> None:
        """After the middle and both ends, (0.2, 0.9) is 0.22 from its nearest and (0.1, 0.95) 0.11, which is 1.57 from
        all three together, and the other 1.46."""
        assert best_first([(0.0, 1.0), (0.1, 0.95), (0.2, 0.9), (0.5, 0.8), (0.9, 0.3)]) == [3, 4, 0, 2, 1]

    def test_of_equal_pairs_all_come(self) -> None:
        assert sorted(best_first([(0.5, 0.5)] * 3)) == [0, 1, 2]

    def test_of_nothing(self) -> None:
        assert best_first([]) == []
