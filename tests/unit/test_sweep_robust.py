"""Robustness as a sweep's third figure: what it is, trials that measure it by attacks, the front of three figures."""

import json
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_cli import FORGET, RETAIN, write_rows

from obliviate.config import build
from obliviate.errors import UserError
from obliviate_cli.console import Terminal
from obliviate_eval.recovery import Recovery
from obliviate_eval.robustness import AttackFigures, ModelFigures, Outcome
from obliviate_eval.statistics import Figure
from obliviate_recipes.attacks.base import Target
from obliviate_recipes.events import QUIET
from obliviate_recipes.stage import perform as perform_stages
from obliviate_recipes.sweeps import trial as trials
from obliviate_recipes.sweeps.front import front, hypervolume, knee, most_forgotten, weighted
from obliviate_recipes.sweeps.ranking import rank, regions
from obliviate_recipes.sweeps.recipe import Sweep, open_sweep
from obliviate_recipes.sweeps.records import Trial, TrialRecord, read_records
from obliviate_recipes.sweeps.result import Result, write_result
from obliviate_recipes.sweeps.robust import surviving
from obliviate_recipes.sweeps.space import Point
from obliviate_recipes.sweeps.spec import SweepRun
from obliviate_recipes.sweeps.trial import Shared, perform
from tiny import tiny_model_folder

triples = st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=8)


def figure(value: float | None) -> Figure:
    return Figure(value, None, None, 4, 0)


def outcome(measure: str, excess: float | None, *, own_scale: bool = False) -> Outcome:
    none = figure(None)
    recovered = Recovery(none, none, none, none, figure(excess), none, 4, 0, 0, 0, 0.5)
    return Outcome("a", "s", measure, own_scale, None, None, True, recovered)


def model(**attacks: list[Outcome]) -> ModelFigures:
    found = {name: AttackFigures(1, 0, {each.measure: each for each in worst}, {}, {}) for name, worst in
             attacks.items()}  # fmt: skip
    return ModelFigures(found, None, None, None, None, None, None)


def test_what_survives_by_hand() -> None:
    """By the headline measures and those with a scale of their own; of the worst attack."""
    weak = [outcome("key_probability", 0.25), outcome("rouge", 0.9)]
    assert surviving(model(relearn=weak)) == 0.75
    assert surviving(model(relearn=weak, patch=[outcome("patch", 0.4, own_scale=True)])) == pytest.approx(0.6)
    assert surviving(model(relearn=[outcome("key_said", 1.3)])) == 0.0
    assert surviving(model(relearn=[outcome("key_said", -0.2)])) == 1.0
    assert surviving(model(relearn=[outcome("key_said", None)])) == 0.0  # nothing was lost
    assert surviving(model(relearn=[])) == 0.0  # every setting costs too much: nothing is told


def test_the_front_of_three_by_hand() -> None:
    """The second is dominated by the first in two figures, and more robust."""
    points = [(0.8, 0.8, 0.1), (0.7, 0.7, 0.9), (0.7, 0.7, 0.1)]
    assert front(points) == [1, 0]
    assert hypervolume(points) == pytest.approx(0.8 * 0.8 * 0.1 + 0.7 * 0.7 * 0.8)
    assert knee([(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.9, 0.9, 0.9)]) == 3
    assert most_forgotten(points, 0.5) == 1  # 0.63 of it survives, of the first 0.08
    assert weighted(points, 0.5) == 1


@given(triples)
def test_equal_in_the_third_figure_it_is_the_front_of_two(found: list[tuple[float, float, float]]) -> None:
    flat = [(f, u, 0.5) for f, u, _ in found]
    pairs = [(f, u) for f, u, _ in found]
    assert front(flat) == front(pairs)
    assert hypervolume(flat) == pytest.approx(hypervolume(pairs) / 2)
    assert hypervolume([found[i] for i in front(found)]) == pytest.approx(hypervolume(found))


@pytest.fixture(autouse=True)
def _no_judges_kept() -> Iterator[None]:
    yield
    trials._measuring.cache_clear()


def config(tiny: Path, tmp_path: Path, **changed: Any) -> SweepRun:
    values = {
        "title": "Three",
        "model": {"source": str(tiny), "compute_dtype": "float32", "max_length": 96},
        "retain_model": {"source": str(tiny_model_folder(tmp_path / "retain-model", seed=3)),
                         "compute_dtype": "float32", "max_length": 96},
        "data": {
            "type": "files",
            "forget": str(write_rows(tmp_path / "forget.jsonl", FORGET)),
            "retain": str(write_rows(tmp_path / "retain.jsonl", RETAIN)),
        },
        "space": {"methods": {"ga+gd": {"optim.learning_rate": [1e-3, 1e-2]}}},
        "optim": {"epochs": 1, "batch_size": 4},
        "evaluation": {
            "engine": {"type": "hf", "dtype": "float32"}, "generation": {"max_new_tokens": 3},
            "encoder": None, "nli": None, "resamples": 100,
        },
        "cluster": {"gpus_per_worker": 0},
        "signal": {"points": 1, "rows": 2},
        "robustness": {"attacks": [{"type": "patch"}, {"type": "quantise", "formats": ["int4_g128"]},
                                   {"type": "relearn", "steps": [2], "learning_rates": [1e-2]}]},
        "runs": str(tmp_path / "runs"),
        **changed,
    }  # fmt: skip
    return build(SweepRun, values, where="test")


def attacked(runs: Path) -> set[str]:
    """Folders of models under attack that were trained or rounded."""
    return {folder.name for folder in runs.iterdir() if folder.name.startswith(("relearn", "quantise"))}


def test_a_trial_is_attacked_in_its_own_process(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original and the retain model beforehand, once for all trials; no Ray is started."""
    monkeypatch.setattr("obliviate.cluster.ensure_ray", None)
    run = config(tiny, tmp_path)
    recipe = Sweep(run)
    perform_stages(recipe.stages, QUIET)
    before = {
        folder.name for folder in (tmp_path / "runs").iterdir() if folder.name.startswith(("relearn", "quantise"))
    }
    assert len(before) == 4
    corpus = run.data.load()
    directory = open_sweep(run, corpus).directory
    shared = Shared(directory, run, corpus, run.evaluation, recipe.models.target, recipe.models.retain, threads=1)
    told: list[dict[str, Any]] = []
    perform(Trial(Point("ga+gd", {"optim.learning_rate": 1e-2}), 0), shared, told.append)
    (record,) = read_records(directory)
    assert (record.status, record.cause) == ("done", "")
    assert record.survives is not None
    assert 0 <= record.survives <= 1
    assert told[-1]["survives"] == record.survives
    assert len(attacked(tmp_path / "runs") - before) == 2  # of the trial alone
    found = json.loads((Path(str(record.attacked)) / "robustness.json").read_text(encoding="utf-8"))
    assert set(found["models"]) == {"original", "retain", record.id}
    assert {"patch", "quantise", "relearn forget"} <= set(found["models"][record.id]["attacks"])
    again: list[dict[str, Any]] = []
    perform(Trial(Point("ga+gd", {"optim.learning_rate": 1e-2}), 0), shared, again.append)
    assert again[-1] == told[-1]


def test_without_a_retain_model_it_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="robustness: what comes back is told beside a model that never knew; give"):
        config(tiny, tmp_path, retain_model=None)
    with pytest.raises(UserError, match="two are called patch"):
        config(tiny, tmp_path, robustness={"attacks": [{"type": "patch"}, {"type": "patch"}]})


def test_a_sweep_without_it_has_the_address_that_it_had(tiny: Path, tmp_path: Path) -> None:
    assert "robustness" not in config(tiny, tmp_path, robustness=None).model_dump()


def record(rate: float, forget: float, utility: float, survives: float) -> TrialRecord:
    return TrialRecord(f"r{rate}-s0", "ga+gd", {"optim.learning_rate": rate}, 0, "done", run="runs/unlearn-x",
                       forget=forget, utility=utility, survives=survives)  # fmt: skip


def test_the_report_has_the_front_of_three(tiny: Path, tmp_path: Path) -> None:
    """The middle one is dominated where two figures count, and on the front of three; where it wins is told of two."""
    records = [record(1e-3, 0.8, 0.8, 0.1), record(1e-2, 0.7, 0.7, 0.9), record(1e-1, 0.6, 0.6, 0.05)]
    for each in records:
        each.write(tmp_path)
    ranked = rank(records, 1)
    assert [each.on_front for each in ranked] == [True, True, False]
    assert [(region.high, region.least) for region in regions(ranked)] == [(0.8, 0.8)]
    out = StringIO()
    result = Result.of(config(tiny, tmp_path), tmp_path, "target", (0.05, 0.95))
    write_result(result, Terminal(Console(file=out, width=200)))
    assert "survives" in out.getvalue()
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["hypervolume"] == pytest.approx(0.8 * 0.8 * 0.1 + 0.7 * 0.7 * 0.8)
    assert report["configurations"][0]["survives"]["mean"] == 0.9
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for title in ("What was forgotten against what of it survives attacks", "What survives attacks against what was"):
        assert title in page
    assert "the front is of three figures" in page


def test_the_plan_counts_the_attacks(tiny: Path, tmp_path: Path) -> None:
    """Of both trials, beside those of the original and the retain model."""

    def titles(**changed: Any) -> list[str]:
        recipe = Sweep(config(tiny, tmp_path, **changed))
        return [work.title for stage in recipe._of_trial("ga+gd") for each in (stage, *stage.needs) for work in
                each.work()]  # fmt: skip

    assert any("relearn" in title for title in titles())
    assert not any("relearn" in title for title in titles(robustness=None))


def test_the_models_of_the_front_are_attacked_in_full(tiny: Path, tmp_path: Path) -> None:
    run = config(tiny, tmp_path, robustness={"attacks": [{"type": "patch"}],
                                             "full": [{"type": "quantise", "formats": ["bf16"]}]})  # fmt: skip
    recipe = Sweep(run)
    made = [replace(record(rate, 0.5, 0.5, 0.5), run=str(tiny.parent)) for rate in (1e-3,)]
    (tmp_path / "one").mkdir()
    for each in made:
        each.write(tmp_path / "one")
    result = Result.of(run, tmp_path / "one", str(tiny), (0.05, 0.95))
    assert run.robustness is not None
    found = recipe._attack_front(result, run.robustness.full, QUIET)
    assert found is not None
    assert set(found.models) == {"original", "retain", made[0].id}
    assert "quantise" in found.models[made[0].id].attacks
    write_result(replace(result, full=found), Terminal(Console(file=StringIO())))
    report = json.loads((tmp_path / "one" / "report.json").read_text(encoding="utf-8"))
    assert "quantise" in report["configurations"][0]["full"]["attacks"]
    assert "all attacks" in (tmp_path / "one" / "report.html").read_text(encoding="utf-8")
    assert Target("x", run.model).needs == ()
