"""Models of several seeds as one: means, Student's t over the seeds, the bootstrap of the mean over items."""

from math import log10, sqrt
from pathlib import Path
from typing import Any

import pytest

from measured import record
from obliviate.config_file import build
from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate.runs import RUN_FILE, write_json
from obliviate_eval.forget_quality import ForgetQuality
from obliviate_eval.pooling import pool
from obliviate_eval.records import RECORDS_FILE, Record, write_records
from obliviate_eval.report.tables import write_table
from obliviate_eval.suites import SUITES
from obliviate_eval.summary import METRICS_FILE, estimate, summarise
from obliviate_recipes.comparison import Compare, CompareRun
from obliviate_recipes.costs.hardware import GPUS, Cluster
from obliviate_recipes.pooled import model_reports
from obliviate_recipes.reporting import write
from recipes import Told
from tiny import tiny_model_folder

SUITE = SUITES["closer_look"]
T2 = 4.302653  # Student's t at 0.975 with two degrees of freedom


def said(*entailed: bool) -> list[Record]:
    """Of a forget set: one generation that says the truth where it is entailed, else something else."""
    return [
        record(Role.FORGET, index=i, generation="the cat sat" if true else "a dog", entailment="entailment")
        for i, true in enumerate(entailed)
    ]


def test_the_mean_over_seeds_with_both_intervals() -> None:
    """ROUGE of four items: 1/4, 2/4 and 3/4 with three seeds. Mean 1/2, standard deviation 1/4."""
    seeds = [said(True, False, False, False), said(True, True, False, False), said(True, True, True, False)]
    found = pool(
        [summarise(each, SUITE, resamples=2000) for each in seeds],
        [estimate(each, SUITE, resamples=2000, seed=0) for each in seeds],
    )
    rouge = found.sets["forget"]["rouge"]
    assert (rouge.value, rouge.scored, rouge.unscored) == (0.5, 4, 0)
    assert rouge.over_seeds is not None
    assert (rouge.over_seeds.mean, rouge.over_seeds.count) == (0.5, 3)
    assert rouge.over_seeds.low == pytest.approx(0.5 - T2 * 0.25 / sqrt(3), abs=1e-6)
    # Items score 1, 2/3, 1/3 and 0 over the seeds: the bootstrap is of their mean, not of one seed's zeros and ones.
    assert rouge.low is not None
    assert 0.1 < rouge.low < 0.25
    efficacy = found.aggregates["forget_efficacy"]
    assert efficacy.over_seeds is not None
    assert efficacy.over_seeds.count == 3
    assert efficacy.value == pytest.approx(0.5)


def test_a_seed_without_a_value_is_left_out_and_a_figure_of_none_has_none() -> None:
    seeds = [said(True, False), [record(Role.FORGET, index=i) for i in range(2)]]
    found = pool(
        [summarise(each, SUITE, resamples=100) for each in seeds],
        [estimate(each, SUITE, resamples=100, seed=0) for each in seeds],
    )
    rouge, probability = (found.sets["forget"][metric] for metric in ("rouge", "probability"))
    assert (rouge.value, rouge.scored, rouge.unscored) == (0.5, 0, 2)
    assert rouge.over_seeds is not None
    assert (rouge.over_seeds.count, rouge.over_seeds.low) == (1, None)
    assert (probability.value, probability.over_seeds) == (None, None)


def test_forget_quality_over_seeds_is_the_geometric_mean_of_p() -> None:
    qualities = [ForgetQuality(p, log10(p), ks, -5.0, 4, 0, 4, 0) for p, ks in ((0.1, 0.2), (0.001, 0.6))]
    evaluations = [
        summarise(said(True, False), SUITE, resamples=100).model_copy(update={"forget_quality": each})
        for each in qualities
    ]
    quality = pool(evaluations, [estimate(said(True, False), SUITE, resamples=100, seed=0)] * 2).forget_quality
    assert quality is not None
    assert (quality.p_value, quality.log10_p, quality.statistic) == (
        pytest.approx(0.01), pytest.approx(-2), pytest.approx(0.4),
    )  # fmt: skip


def run_of(folder: Path, name: str, seed: int | None, records: list[Record], *, rate: float = 1e-5) -> Path:
    """An evaluation of a model that a training with this seed has made; None: of a model from elsewhere."""
    training, run = folder / f"unlearn-{name}-{seed}", folder / f"evaluate-{name}-{seed}"
    if seed is not None:
        terms = {"method": {"type": "npo"}, "regularizers": [{"type": "gd"}]}
        config = {**terms, "seed": seed, "optim": {"learning_rate": rate}}
        write_json(training / RUN_FILE, {"verb": "unlearn", "label": name, "config": config, "inputs": {"model": "m"}})
    evaluation = {"suite": "closer_look", "resamples": 100, "seed": 0}
    config = {"evaluation": evaluation, "model": {"source": str(training / "model")}}
    evaluated = {"verb": "evaluate", "label": f"{name} seed {seed}", "config": config,
                 "inputs": {"model": f"{name}{seed}", "data": "d"}}  # fmt: skip
    write_json(run / RUN_FILE, evaluated)
    write_records(run / RECORDS_FILE, records)
    summarise(records, SUITE, resamples=100).write(run / METRICS_FILE)
    return run


def test_a_report_pools_what_differs_by_the_seed_alone(tmp_path: Path) -> None:
    runs = [
        run_of(tmp_path, "before", None, said(True, True)),
        run_of(tmp_path, "NPO+GD", 0, said(True, False)),
        run_of(tmp_path, "other", 0, said(True, True), rate=1e-4),
        run_of(tmp_path, "NPO+GD", 1, said(False, False)),
    ]
    models = model_reports(runs)
    assert [(model.name, model.kind) for model in models] == [
        ("before seed None", "original"), ("NPO+GD (2 seeds)", "unlearned"), ("other seed 0", "unlearned"),
    ]  # fmt: skip
    assert [model.provenance.get("seeds") for model in models] == [None, [0, 1], None]
    assert [models[1].provenance[f"seed {seed}"]["training"]["config"]["seed"] for seed in (0, 1)] == [0, 1]
    assert models[1].evaluation.sets["forget"]["rouge"].value == 0.25
    assert [each.generation for each in models[1].records] == ["the cat sat", "a dog"]  # the first seed's
    assert len(model_reports([runs[1], runs[1]])) == 2  # the same one twice is no second seed

    printed = Told(200)
    write("Seeds", models, tmp_path / "report.html", printed)
    assert "seeds -2.93–3.43" in printed.text  # 0.25 - 12.706 * 0.25
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "seeds -2.927 – 3.427" in html
    assert "95 % interval over seeds beside it" in html
    csv = write_table(models, tmp_path / "table", "csv").read_text(encoding="utf-8").splitlines()
    assert csv[0].endswith("value,low,high,scored,unscored,seeds,seeds_low,seeds_high")
    [line] = [each for each in csv if each.startswith("NPO+GD (2 seeds),unlearned,NPO+GD,forget,rouge,0.25,")]
    assert line.split(",")[-3] == "2"


def comparison(folder: Path, model: str, **values: Any) -> CompareRun:
    rows = folder / "rows.jsonl"
    lines = [f'{{"question": "What is {n}?", "answer": "It is {n}."}}\n' for n in range(8)]
    rows.write_text("".join(lines), encoding="utf-8")
    given = {
        "model": {"source": model}, "methods": ["ga", "npo"], "data": {"type": "files", "forget": str(rows)},
        "optim": {"epochs": 1, "batch_size": 4}, "evaluation": {"encoder": None, "nli": None}, **values,
    }  # fmt: skip
    return build(CompareRun, given, where="test")


def test_every_method_is_trained_with_every_seed(tmp_path: Path) -> None:
    config = comparison(tmp_path, "m", seeds=[0, 3], seed=7)
    assert [run.seed for method in config.methods for run in config.unlearnings(method, "m")] == [0, 3, 0, 3]
    alone = comparison(tmp_path, "m", seed=7)
    assert [run.seed for method in alone.methods for run in alone.unlearnings(method, "m")] == [7, 7]
    with pytest.raises(UserError, match=r"seeds: \[1, 1\] holds one twice; give each once"):
        comparison(tmp_path, "m", seeds=[1, 1])


def test_the_plan_counts_seeds(tmp_path: Path) -> None:
    config = comparison(tmp_path, str(tiny_model_folder(tmp_path / "model")), seeds=[0, 1, 2])
    parts = {part.title: part.repeats for part in Compare(config).estimate(Cluster(GPUS["h100"]))}
    assert parts == {"evaluate": 7, "unlearn with GA": 3, "unlearn with NPO": 3}
