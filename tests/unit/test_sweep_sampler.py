"""Samplers, and the search that turns their points into trials: without Ray, as Ray Tune would call it."""

from typing import Any

import pytest
from test_sweep_space import sweep

from obliviate_recipes.sweeps.records import Trial
from obliviate_recipes.sweeps.sampler import Optuna, Sampler, open_sampler
from obliviate_recipes.sweeps.search import Search
from obliviate_recipes.sweeps.space import Point
from obliviate_recipes.sweeps.spec import SweepRun

SPACE = {
    "methods": {"npo+gd": {"method.beta": {"low": 0.05, "high": 1.0, "log": True}}, "ga+gd": {}},
    "shared": {"optim.learning_rate": [1e-5, 1e-4], "optim.epochs": {"low": 1, "high": 5}},
}


def run(sampler: dict[str, Any], space: Any = SPACE) -> SweepRun:
    return sweep(space, sampler=sampler)


def proposed(sampler: Sampler) -> list[Point]:
    found = []
    while (point := sampler.propose()) is not None:
        found.append(point)
        sampler.learn(point, (0.5, 0.5))
    return found


def test_a_grid_leaves_out_what_comes_twice() -> None:
    sampler = open_sampler(run({"type": "grid"}, {"methods": {"ga": {"optim.epochs": [1, 2, 1.0]}}}), ())
    assert sampler.count == 2
    assert [point.values["optim.epochs"] for point in proposed(sampler)] == [1.0, 2.0]


def test_random_draws_end_where_the_space_does() -> None:
    sampler = open_sampler(run({"type": "random", "trials": 50}, {"methods": ["ga", "idk"]}), ())
    assert sampler.count == 2
    assert {point.method for point in proposed(sampler)} == {"ga", "idk"}


def test_random_draws_come_again() -> None:
    first, second = (proposed(open_sampler(run({"type": "random", "trials": 8, "seed": 3}), ())) for _ in range(2))
    assert [point.id for point in first] == [point.id for point in second]
    assert len({point.id for point in first}) == 8


class TestOptuna:
    def test_it_proposes_valid_points_of_every_method(self) -> None:
        config = run({"type": "optuna", "trials": 12, "startup": 8})
        points = proposed(open_sampler(config, ()))
        assert len({point.id for point in points}) == 12
        assert {point.method for point in points} == {"npo+gd", "ga+gd"}
        for point in points:
            assert set(point.values) == {"optim.learning_rate", "optim.epochs"} | (
                {"method.beta"} if point.method == "npo+gd" else set()
            )
            config.unlearning(point, 0, "")

    def test_it_learns_where_the_good_ones_are(self) -> None:
        """Both figures fall with the distance of log beta from log 0.2. Of random draws from 0.001 to 10 it is
        (log(200)^2 + log(50)^2) / (2 log(10,000)) = 2.35 on average; of what is proposed at last less than half."""
        from math import log
        from statistics import fmean

        space = {"methods": {"npo": {"method.beta": {"low": 0.001, "high": 10.0, "log": True}}}}
        sampler = open_sampler(run({"type": "optuna", "trials": 60, "startup": 15}, space), ())
        distances = []
        while (point := sampler.propose()) is not None:
            distances.append(abs(log(point.values["method.beta"] / 0.2)))
            sampler.learn(point, (-distances[-1], -distances[-1]))
        assert fmean(distances[-20:]) < (log(200) ** 2 + log(50) ** 2) / (2 * log(10_000)) / 2

    def test_known_points_come_first_and_once(self) -> None:
        config = run({"type": "optuna", "trials": 6, "startup": 2})
        known = proposed(open_sampler(config, ()))[:4]
        again = proposed(open_sampler(config, known))
        assert [point.id for point in again[:4]] == [point.id for point in known]
        assert len({point.id for point in again}) == 6

    def test_a_point_without_figures_is_no_good_one(self) -> None:
        sampler = open_sampler(run({"type": "optuna", "trials": 2}), ())
        assert isinstance(sampler, Optuna)
        point = sampler.propose()
        assert point is not None
        sampler.learn(point, None)
        assert sampler.propose() is not None

    def test_a_space_that_is_used_up_ends_it(self) -> None:
        assert len(proposed(open_sampler(run({"type": "optuna", "trials": 9}, {"methods": ["ga", "me"]}), ()))) == 2


class Told(list[tuple[Point, Any]]):
    """A sampler of two points that keeps what it is told."""

    count = 2

    def __init__(self) -> None:
        self.points = [Point("ga", {}), Point("me", {})]

    def propose(self) -> Point | None:
        return self.points.pop(0) if self.points else None

    def learn(self, point: Point, found: Any) -> None:
        self.append((point, found))


def test_a_point_becomes_a_trial_for_each_seed_and_is_told_the_mean() -> None:
    sampler = Told()
    search = Search(sampler, (0, 7))
    first, second = search.suggest("a"), search.suggest("b")
    assert first == {"method": "ga", "values": {}, "seed": 0}
    assert second == {"method": "ga", "values": {}, "seed": 7}
    search.on_trial_complete("a", {"forget": 0.4, "utility": 1.0})
    assert not sampler
    search.on_trial_complete("b", {"forget": 0.6, "utility": 0.5})
    assert sampler == [(Point("ga", {}), (pytest.approx(0.5), pytest.approx(0.75)))]


@pytest.mark.parametrize("ended", [{"error": True}, {"result": None}, {"result": {"signal": 0.3}}])
def test_a_point_with_a_trial_that_did_not_end_well_has_no_figures(ended: dict[str, Any]) -> None:
    sampler = Told()
    search = Search(sampler, (0, 7))
    search.suggest("a")
    search.suggest("b")
    search.on_trial_complete("a", {"forget": 0.4, "utility": 1.0})
    search.on_trial_complete("b", **ended)
    assert sampler == [(Point("ga", {}), None)]


def test_the_search_ends_with_its_sampler() -> None:
    search = Search(Told(), (0,))
    assert [search.suggest(name) for name in "abc"][2] == "FINISHED"


def test_ids_tell_seeds_and_values_apart() -> None:
    ids = {Trial(Point("ga", {"optim.epochs": epochs}), seed).id for epochs in (1, 2) for seed in (0, 1)}
    assert len(ids) == 4
