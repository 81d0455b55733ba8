"""What may be searched: axes, points, the mistakes a space can hold."""

from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obliviate.config import build
from obliviate.errors import UserError
from obliviate.schema import SharpnessSpec
from obliviate_recipes.sweeps.space import Axis, Point, draws, grid, parameters
from obliviate_recipes.sweeps.spec import SweepRun

BASE: dict[str, Any] = {"model": {"source": "m"}, "data": {"type": "fictitious"}}


def sweep(space: Any, *overrides: str, **more: Any) -> SweepRun:
    return build(SweepRun, {**BASE, "space": space, **more}, overrides, where="sweep.yaml")


def mistake(space: Any, *overrides: str, **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        sweep(space, *overrides, **more)
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestGrid:
    def test_every_combination_of_each_methods_own_and_the_shared_axes(self) -> None:
        """npo+gd: 2 betas x 2 rates; ga+gd: the 2 shared rates alone."""
        space = {"methods": {"npo+gd": {"method.beta": [0.1, 0.5]}, "ga+gd": {}}, "shared": {"optim.epochs": [1, 2]}}
        points = grid(sweep(space).space)
        assert [(p.method, dict(p.values)) for p in points] == [
            ("npo+gd", {"optim.epochs": 1, "method.beta": 0.1}),
            ("npo+gd", {"optim.epochs": 1, "method.beta": 0.5}),
            ("npo+gd", {"optim.epochs": 2, "method.beta": 0.1}),
            ("npo+gd", {"optim.epochs": 2, "method.beta": 0.5}),
            ("ga+gd", {"optim.epochs": 1}),
            ("ga+gd", {"optim.epochs": 2}),
        ]

    def test_a_methods_own_axis_stands_before_the_shared_one(self) -> None:
        space = {"methods": {"ga": {"optim.epochs": [9]}}, "shared": {"optim.epochs": [1, 2]}}
        assert [dict(p.values) for p in grid(sweep(space).space)] == [{"optim.epochs": 9}]

    def test_a_range_has_no_grid(self) -> None:
        space = sweep({"methods": {"ga": {"optim.epochs": {"low": 1, "high": 3}}}}).space
        with pytest.raises(UserError, match=r"optim\.epochs: a grid needs a list of values.*sampler\.type=random"):
            grid(space)

    def test_a_list_of_methods_is_short_for_methods_without_axes(self) -> None:
        assert [p.method for p in grid(sweep({"methods": ["ga", "me+gd"]}).space)] == ["ga", "me+gd"]


class TestDraws:
    def test_the_seed_decides(self) -> None:
        space = sweep({"methods": ["ga", "idk"], "shared": {"optim.learning_rate": {"low": 1e-5, "high": 1e-3}}}).space
        first, again, other = (list(islice(draws(space, seed), 20)) for seed in (0, 0, 1))
        assert first == again
        assert first != other
        assert {point.method for point in first} == {"ga", "idk"}

    @given(st.integers(1, 1000), st.integers(1, 1000), st.booleans(), st.integers(0, 99))
    def test_draws_lie_in_the_range_and_whole_ends_give_whole_numbers(
        self, low: int, width: int, log: bool, seed: int
    ) -> None:
        import numpy as np

        axis = Axis(low=low, high=low + width, log=log)
        value = axis.draw(np.random.default_rng(seed))
        assert isinstance(value, int)
        assert low <= value <= low + width

    def test_numbers_have_four_digits_and_stay_in_the_range(self) -> None:
        axis = Axis(low=0.123449, high=0.5)
        assert [axis.tidy(value) for value in (0.314159, 0.12345, 0.49999)] == [0.3142, 0.1235, 0.5]
        assert axis.tidy(0.123449) == 0.123449  # 0.1234 would lie below it

    def test_a_logarithmic_range_is_even_in_the_logarithm(self) -> None:
        """Half of the draws from 1e-5 ... 1e-1 lie below 1e-3."""
        import numpy as np

        random, axis = np.random.default_rng(0), Axis(low=1e-5, high=1e-1, log=True)
        below = sum(axis.draw(random) < 1e-3 for _ in range(1000))
        assert 450 < below < 550


class TestPoint:
    def test_overrides_are_those_of_unlearn(self) -> None:
        point = Point("npo+gd", {"method.beta": 0.2, "pairing": "fixed", "optim.warmup_steps": None})
        assert point.overrides == ["method=npo+gd", "method.beta=0.2", 'pairing="fixed"', "optim.warmup_steps=null"]

    def test_one_value_has_one_form(self) -> None:
        run = sweep({"methods": {"ga": {"optim.learning_rate": [1e-5, "1e-5", 0.00001]}}})
        assert len({run.canonical(point).id for point in grid(run.space)}) == 1

    def test_the_config_of_a_trial(self) -> None:
        run = sweep({"methods": ["npo+gd"], "shared": {"model.lora.rank": [4]}}, "optim.epochs=7")
        unlearning = run.unlearning(Point("npo+gd", {"model.lora.rank": 4, "regularizers.0.weight": 2.0}), 3, "target")
        assert unlearning.model.source == "target"
        assert unlearning.model.lora is not None
        assert unlearning.model.lora.rank == 4
        assert unlearning.regularizers[0].weight == 2
        assert (unlearning.optim.epochs, unlearning.seed) == (7, 3)


class TestTogether:
    """Parameters that only go with others are searched beside them."""

    @pytest.mark.parametrize(
        "axes",
        [
            {"updates": ["dual"], "forget_learning_rate": [1e-5, 1e-4]},
            {"updates": ["dual"], "projection.energy": [0.9, 0.95]},
            {"neighbours": [2, 3], "pairing": ["nearest"]},
        ],
    )
    def test_what_needs_another_parameter(self, axes: Any) -> None:
        run = sweep({"methods": {"npo+gd": axes}})
        assert len(grid(run.space)) == 2

    def test_each_value_is_checked_beside_the_first_of_the_others(self) -> None:
        message = mistake({"methods": {"npo+gd": {"updates": ["dual", "joint"], "forget_learning_rate": [1e-5]}}})
        assert "forget_learning_rate: with updates: joint all terms have one learning rate" in message

    def test_corners(self) -> None:
        """One to four epochs and two betas: the first of both, and one step along each axis."""
        space = {"methods": {"npo": {"method.beta": [0.1, 0.5]}}, "shared": {"optim.epochs": {"low": 1, "high": 4}}}
        assert [dict(point.values) for point in sweep(space).space.corners()] == [
            {"optim.epochs": 1, "method.beta": 0.1},
            {"optim.epochs": 4, "method.beta": 0.1},
            {"optim.epochs": 1, "method.beta": 0.5},
        ]

    def test_other_answers_are_sampled_as_the_config_says(self) -> None:
        run = sweep({"methods": ["altpo+gd"]}, "alternatives.samples=3", "evaluation.engine.type=hf")
        found = run.unlearning(Point("altpo+gd", {}), 0, "").alternatives
        assert found.samples == 3
        assert found.engine is not None
        assert found.engine.type == "hf"


class TestMistakes:
    def test_an_unknown_parameter_lists_those_of_the_method(self) -> None:
        message = mistake({"methods": {"npo+gd": {"method.betta": [1]}}})
        assert message.startswith("sweep.yaml: space: method.betta: not a parameter of npo+gd; did you mean method.be")
        assert "npo+gd has: method.weight, method.trainable, method.beta, method.reduction, regularizers.0" in message

    def test_what_changes_no_result_is_no_parameter(self) -> None:
        assert not {"optim.micro_batch_size", "model.lora.merge", "cluster.workers"} & set(parameters("ga"))
        assert "not a parameter of ga" in mistake({"methods": {"ga": {"optim.micro_batch_size": [1, 2]}}})

    def test_a_wrapper_is_on_or_off_or_varied_inside(self) -> None:
        space = {"methods": {"npo+gd": {}}, "shared": {"sharpness": [None, {"rho": 0.01}], "optim.epochs": [1, 2]}}
        assert {"sharpness", "tampering.steps"} < set(parameters("npo+gd"))
        made = sweep(space)
        points = [made.canonical(point) for point in grid(made.space)]
        assert [point.values["sharpness"] for point in points[::2]] == [None, {"rho": 0.01}]
        assert made.unlearning(points[-1], 0, "").sharpness == SharpnessSpec(rho=0.01)
        assert mistake({**space, "shared": {**space["shared"], "sharpness.rho": [0.1]}}).endswith(
            "space: sharpness.rho: sharpness is varied as a whole already; give one of the two"
        )

    @pytest.mark.parametrize("methods", [{}, [], None])
    def test_an_empty_space(self, methods: Any) -> None:
        assert "the space is empty; name at least one method" in mistake({"methods": methods})

    def test_a_shared_parameter_that_one_method_lacks(self) -> None:
        message = mistake({"methods": ["npo", "ga"], "shared": {"method.beta": [0.1]}})
        assert "method.beta: not a parameter of ga" in message

    def test_an_unknown_method(self) -> None:
        assert "no forget objective 'nppo'; known: ga, npo" in mistake({"methods": ["nppo+gd"]})

    @pytest.mark.parametrize(
        ("axis", "said"),
        [
            ([], "the list is empty"),
            ({"low": 2, "high": 1}, "low 2 is not below high 1"),
            ({"low": 0, "high": 1, "log": True}, "log: true needs a range with low above 0"),
            ({"low": 1}, "give a list of values, or low and high of a range"),
            ({"lo": 1, "high": 2}, "lo: unknown key; did you mean low?"),
            ([0.1, -1], "method.beta: should be greater than 0 (got -1)"),
            ({"low": -1.0, "high": 1.0}, "method.beta: should be greater than 0 (got -1.0)"),
        ],
    )
    def test_an_axis_that_is_none(self, axis: Any, said: str) -> None:
        assert said in mistake({"methods": {"npo": {"method.beta": axis}}})

    def test_a_metric_that_the_suite_does_not_give(self) -> None:
        message = mistake({"methods": ["ga"]}, objectives={"forget": "fluency"})
        assert "objectives.forget: the suite closer_look gives no 'fluency'; it gives: model_utility, for" in message

    def test_forget_quality_needs_a_retain_model(self) -> None:
        objectives = {"forget": "forget_quality", "utility": "tofu_model_utility"}
        message = mistake({"methods": ["ga"]}, objectives=objectives, evaluation={"suite": "tofu"})
        assert "(forget_quality needs a retain model)" in message
        sweep({"methods": ["ga"]}, objectives=objectives, retain_model={"source": "r"}, evaluation={"suite": "tofu"})

    def test_adapters_kept_apart_cannot_be_calibrated(self) -> None:
        message = mistake({"methods": ["ga"]}, calibrate=True, model={"source": "m", "lora": {"merge": False}})
        assert (
            "model.lora.merge: false keeps adapters apart; set model.lora.merge: true, or calibrate: false" in message
        )

    def test_a_seed_twice(self) -> None:
        assert "seeds: [1, 1] holds one twice" in mistake({"methods": ["ga"]}, seeds=[1, 1])

    def test_a_grace_that_never_ends(self) -> None:
        message = mistake({"methods": ["ga"]}, scheduler={"type": "median", "grace": 5}, signal={"points": 5})
        assert "scheduler.grace: 5 is not below signal.points: 5" in message
        message = mistake({"methods": ["ga"]}, scheduler={"type": "asha", "grace": 2}, signal={"points": 5})
        assert "scheduler.grace: 2 times reduction_factor 3 is above signal.points: 5" in message
