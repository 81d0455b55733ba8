"""An attack's settings as a space: what they may be, what a point is, and what one brought back."""

from pathlib import Path
from typing import Any

import pytest

from obliviate.config import build
from obliviate.errors import UserError
from obliviate_eval.recovery import Recovery
from obliviate_eval.robustness import Outcome
from obliviate_eval.statistics import Figure
from obliviate_recipes.attacks.relearn import Relearn
from obliviate_recipes.catalogue import load, named_by
from obliviate_recipes.sweeps.sampler import open_sampler
from obliviate_recipes.sweeps.space import Point
from obliviate_recipes.worst_case.recipe import WorstCase, brought_back
from obliviate_recipes.worst_case.spec import WorstCaseRun
from tiny import tiny_model_folder


def config(**changed: Any) -> WorstCaseRun:
    values = {
        "kind": "attack",
        "model": {"source": "original"},
        "retain_model": {"source": "retain"},
        "models": {"forgot": {"source": "forgot"}},
        "data": {"type": "fictitious", "people": 4, "questions_per_person": 2},
        "attack": {"type": "relearn", "learning_rates": [1e-5], "lora": {"rank": 4}},
        "settings": {"learning_rates.0": {"low": 1e-5, "high": 1e-3, "log": True}, "lora.rank": [4, 8]},
        "sampler": {"type": "random", "trials": 4},
        **changed,
    }
    return build(WorstCaseRun, values, where="test")


def test_a_point_is_the_attack_with_its_values() -> None:
    found = config().attack_at(Point("relearn", {"learning_rates.0": 1e-4, "lora.rank": 16}))
    assert isinstance(found, Relearn)
    assert found.learning_rates == (1e-4,)
    assert found.lora is not None
    assert found.lora.rank == 16
    assert found.steps == (1, 5, 16)  # measured along the way: no axis


def test_the_samplers_of_sweeps_propose_points() -> None:
    for sampler in ({"type": "random", "trials": 4}, {"type": "optuna", "trials": 4, "startup": 2}):
        opened = open_sampler(config(sampler=sampler), ())
        points = []
        while (point := opened.propose()) is not None:
            points.append(point)
            opened.learn(point, (0.5,))
        assert len({point.id for point in points}) == 4
        assert all(1e-5 <= point.values["learning_rates.0"] <= 1e-3 for point in points)
    grid = open_sampler(config(sampler={"type": "grid"}, settings={"lora.rank": [4, 8, 8.0]}), ())
    assert grid.count == 2  # 8 and 8.0 are one


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings": {}}, "settings: nothing to search; name at least one key of the attack"),
        ({"settings": {"lora.rnk": [4]}}, r"settings: attack\.lora\.rnk: unknown key; did you mean rank"),
        ({"settings": {"batch_size": {"low": 0, "high": 4}}}, r"settings: attack\.batch_size: should be greater"),
        (
            {"attack": {"type": "patch"}, "settings": {"name": ["a"]}},
            "attack: patch: is a diagnosis, which no attacker",
        ),
        ({"attacks": [{"type": "relearn"}]}, "attacks"),
        ({"retain_model": None}, "retain_model: attacks are compared with a model that never saw"),
    ],
)
def test_what_cannot_be_searched_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**changed)


def outcome(excess: float | None, drop: float, measure: str = "key_probability") -> Outcome:
    none = Figure(None, None, None, 0, 0)
    recovered = Recovery(none, none, none, none, Figure(excess, None, None, 4, 0), none, 4, 0, 0, 0, 0.5)
    return Outcome("relearn", "s", measure, False, None, drop, drop <= 0.1, recovered)


def test_what_a_point_brings_back_by_hand() -> None:
    """Beyond the budget a point is worth less than any within it, and the less the more it costs."""
    assert brought_back([outcome(0.2, 0.0), outcome(0.5, 0.1), outcome(0.9, 0.2)], "relearn") == 0.5
    assert brought_back([outcome(0.2, 0.0), outcome(0.8, 0.0, "rouge")], "relearn") == 0.2
    assert brought_back([outcome(None, 0.0)], "relearn") == 0.0
    assert brought_back([outcome(0.9, 0.4), outcome(0.9, 0.3)], "relearn") == -0.3


def test_kind_tells_which_sweep_it_is(tmp_path: Path) -> None:
    file = tmp_path / "worst.yaml"
    file.write_text(
        "kind: attack\nmodel: {source: o}\nretain_model: {source: r}\nmodels: {f: {source: f}}\n"
        "data: {type: fictitious}\nattack: {type: relearn}\nsettings: {batch_size: [4, 8]}\n"
    )
    recipe = load("sweep", file, ["sampler.type=grid"])
    assert isinstance(recipe, WorstCase)
    assert named_by({"kind": "attack", "models": {}}, "x") == "sweep-attack"


def test_the_settings_of_all_points_are_one_attack(tmp_path: Path) -> None:
    models = [str(tiny_model_folder(tmp_path / f"model-{seed}", seed=seed)) for seed in range(3)]
    found = config(
        model={"source": models[0]}, retain_model={"source": models[1]}, models={"forgot": {"source": models[2]}},
        runs=str(tmp_path / "runs"),
    )  # fmt: skip
    recipe = WorstCase(found)
    points = [Point("relearn", {"learning_rates.0": 1e-4, "lora.rank": rank}) for rank in (4, 8)]
    robust = recipe.at_points(points)
    attempts = robust.attempts["relearn forget lora4", "forgot"]
    assert [attempt.setting for attempt in attempts][::3] == [
        "relearn forget lora4, rate 0.0001, 1 steps (learning_rates.0=0.0001, lora.rank=4)",
        "relearn forget lora8, rate 0.0001, 1 steps (learning_rates.0=0.0001, lora.rank=8)",
    ]
    assert len(attempts) == 2 * 3
    assert len({attempt.after.stage.run.directory for attempt in attempts}) == 2
    lines = "\n".join(recipe.outline())
    assert "4 settings of relearn forget lora4 on 3 models, 1 at a time, sampler random" in lines
