"""The search of an attack's settings on real Ray with tiny models."""

from pathlib import Path

import pytest

from obliviate.config import build
from obliviate_eval.robustness import ROBUSTNESS_FILE, Robustness
from obliviate_recipes.worst_case.recipe import WorstCase
from obliviate_recipes.worst_case.spec import WorstCaseRun
from recipes import Told
from tiny import tiny_model_folder

pytestmark = [pytest.mark.integration, pytest.mark.cluster]


@pytest.mark.usefixtures("ray_local")
def test_settings_are_searched_and_the_worst_case_counts(tmp_path: Path) -> None:
    """One setting of no strength, one that ruins the training, and one that changes something; the same command again
    finds all of it."""
    models = [str(tiny_model_folder(tmp_path / f"model-{seed}", seed=seed)) for seed in range(3)]
    values = {
        "kind": "attack",
        "model": {"source": models[0], "compute_dtype": "float32"},
        "retain_model": {"source": models[1], "compute_dtype": "float32"},
        "models": {"forgot": {"source": models[2], "compute_dtype": "float32"}},
        "data": {"type": "fictitious", "people": 4, "questions_per_person": 2, "eval_retain_limit": 2},
        "attack": {"type": "relearn", "steps": [1, 3], "batch_size": 2, "learning_rates": [1e-2]},
        "settings": {"learning_rates.0": [1e-30, 1e-2, 1e30]},
        "budget": {"utility_drop": 1.0},
        "evaluation": {"suite": "robustness", "engine": {"type": "hf", "dtype": "float32"},
                       "generation": {"max_new_tokens": 3}, "resamples": 100},
        "cluster": {"address": "local", "cpus_per_worker": 0.5, "gpus_per_worker": 0},
        "runs": str(tmp_path / "runs"),
    }  # fmt: skip
    config = build(WorstCaseRun, values, where="test")
    told = Told()
    report = WorstCase(config).perform(told)
    found = Robustness.read(report.with_name(ROBUSTNESS_FILE))
    settings = {outcome.setting for outcome in found.outcomes["forgot"] if outcome.attack == "relearn forget"}
    assert {setting.partition("(")[2] for setting in settings} == {
        "learning_rates.0=1e-30)", "learning_rates.0=0.01)"
    }  # fmt: skip
    assert "learning_rates.0=1e+30: not counted: step" in told.text
    assert "3/3" in told.text
    for outcome in found.outcomes["forgot"]:
        if "1e-30" in outcome.setting:
            assert outcome.recovery.excess.value in (None, 0)
    relearned = {folder.name: folder.stat().st_mtime_ns for folder in (tmp_path / "runs").glob("relearn-*/run.json")}
    again = Told()
    assert WorstCase(config).perform(again) == report
    assert {f.name: f.stat().st_mtime_ns for f in (tmp_path / "runs").glob("relearn-*/run.json")} == relearned
