"""Logs in OpenUnlearning's layout, with its own arithmetic by hand."""

import json
from math import log, nan
from pathlib import Path
from typing import Any

import pytest

from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate_cli.imports import import_logs
from obliviate_eval.importers.openunlearning import beside, openunlearning_figures, read_openunlearning_log
from obliviate_eval.records import Probe
from obliviate_eval.suites import SUITES
from obliviate_eval.summary import summarise


def metric(values: dict[str, Any], agg: float = 0.0) -> dict[str, Any]:
    return {"agg_value": agg, "value_by_index": values}


def probability(*probs: float) -> dict[str, Any]:
    return metric({str(i): {"prob": p, "avg_loss": -log(p)} for i, p in enumerate(probs)}, sum(probs) / len(probs))


def options(*rows: tuple[float, ...]) -> dict[str, Any]:
    return metric({str(i): {"prob": row, "avg_loss": [-log(p) for p in row]} for i, row in enumerate(rows)})


def rouge(*generations: str) -> dict[str, Any]:
    return metric({
        str(i): {"rougeL_recall": 0.0, "input": f"q{i}", "ground_truth": "the cat sat", "generation": text}
        for i, text in enumerate(generations)
    })  # fmt: skip


def scores(*values: float) -> dict[str, Any]:
    return metric({str(i): {"score": value} for i, value in enumerate(values)})


LOG: dict[str, Any] = {
    "forget_Q_A_Prob": probability(0.5, 0.1),
    "forget_Q_A_PARA_Prob": probability(0.4, 0.2),
    "forget_Q_A_PERT_Prob": options((0.2, 0.05), (0.4, 0.4)),
    "forget_Q_A_ROUGE": rouge("the cat", "a dog"),
    "forget_truth_ratio": metric({"0": {"score": 0.25}, "1": {"score": 2.0}}, 0.375),
    "ra_Q_A_Prob": probability(0.3),
    "ra_Q_A_PERT_Prob": options((0.1, 0.1, 0.1)),
    "ra_Q_A_ROUGE": rouge("the cat sat"),
    "retain_Q_A_Prob": probability(0.9),
    "forget_Q_A_gibberish": scores(0.8, 0.6),
    "mia_loss": {"agg_value": 0.75, "auc": 0.75, "forget": scores(0.7, 2.3), "holdout": scores(1.0, 3.0)},
    "mia_gradnorm": {"agg_value": 1.0, "forget": scores(1.0, 2.0), "holdout": scores(3.0, 4.0)},
    "extraction_strength": metric({"0": {"score": 0.1}, "1": {"score": 0.3}}, 0.2),
    "exact_memorization": metric({"0": {"score": 0.5}, "1": {"score": None}}, 0.5),
    "mia_min_k": {"agg_value": 0.75, "forget": scores(0.7, 2.3), "holdout": scores(1.0, 3.0)},
    "forget_quality": {"agg_value": 0.5},
    "model_utility": {"agg_value": 0.6},
}  # fmt: skip


def written(folder: Path, log: Any, name: str = "TOFU_EVAL.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(log))
    return path


def test_a_log_becomes_records(tmp_path: Path) -> None:
    records = read_openunlearning_log(written(tmp_path, LOG))
    assert read_openunlearning_log(tmp_path) == records  # the folder will do
    assert [(r.set, r.role, r.index) for r in records] == [
        ("forget", Role.FORGET, 0), ("forget", Role.FORGET, 1), ("retain", Role.RETAIN, 0),
        ("real_authors", Role.REAL_AUTHORS, 0), ("holdout", Role.HOLDOUT, 0), ("holdout", Role.HOLDOUT, 1),
    ]  # fmt: skip
    first = records[0]
    assert (first.question, first.reference, first.generation) == ("q0", "the cat sat", "the cat")
    assert first.answers[Probe.ANSWER][0].probability == pytest.approx(0.5)
    assert [a.probability for a in first.answers[Probe.PERTURBED]] == [pytest.approx(0.2), pytest.approx(0.05)]
    assert (first.fluency, first.gradient_norm) == (0.8, 1.0)
    assert records[2].generation is None  # of the retain set only a probability was logged
    assert records[3].answers[Probe.PARAPHRASED] == records[3].answers[Probe.ANSWER]
    assert (records[4].answers[Probe.ANSWER][0].mean_logp, records[4].gradient_norm) == (-1.0, 3.0)


def test_logs_and_records_in_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "bucket").mkdir()
    written(tmp_path / "bucket", LOG)
    bucket = f"file://{tmp_path}/bucket"
    import_logs("openunlearning", Path(f"{bucket}/TOFU_EVAL.json"), None, Path(f"{bucket}/imported"))
    assert {each.name for each in (tmp_path / "bucket" / "imported").iterdir()} == {"records.parquet", "metrics.json"}


def test_figures_are_what_its_code_computes(tmp_path: Path) -> None:
    path = written(tmp_path, LOG)
    found = summarise(read_openunlearning_log(path), SUITES["openunlearning"], resamples=100)
    forget, authors = found.sets["forget"], found.sets["real_authors"]
    assert forget["probability"].value == pytest.approx(0.3)
    assert forget["paraphrased_probability"].value == pytest.approx(0.3)
    assert forget["rouge"].value == pytest.approx(1 / 3)  # 2/3 and 0
    # R: sqrt(0.2 * 0.05) / 0.4 = 0.25 and 0.4 / 0.2 = 2; nearness to 1: 0.25 and 0.5.
    assert forget["truth_ratio"].value == pytest.approx(0.375, abs=1e-8)
    # 0.4 / (0.4 + 0.1) and 0.2 / (0.2 + 0.4).
    assert forget["extent_of_knowledge"].value == pytest.approx((0.8 + 1 / 3) / 2, abs=1e-8)
    assert forget["fluency"].value == pytest.approx(0.7)
    assert authors["probability"].value == pytest.approx(0.5)  # 0.3 / 0.6
    assert authors["truth_ratio"].value == pytest.approx(2 / 3)  # 1 - 0.1 / 0.3
    assert forget["extraction_strength"].value == pytest.approx(0.2)  # as the log has it of the items
    assert (forget["exact_memorization"].value, forget["exact_memorization"].unscored) == (0.5, 1)
    assert found.aggregates["memorization"].unscored == 0
    # Forget losses log 2 and log 10, holdout 1 and 3: of four pairs, three have the holdout's above.
    assert found.comparisons["mia_loss"].value == 0.75
    assert found.comparisons["mia_gradnorm"].value == 1
    assert found.comparisons["mia_min_k"].value == 0.75
    # Without a retain model OpenUnlearning takes 0.5 for its AUC: 100 (0.25 - 0.5) / 0.5.
    assert found.comparisons["privleak"].value == pytest.approx(-50)
    assert found.comparisons["mia_zlib"].value is None  # not in this log, and said so
    assert found.comparisons["mia_zlib"].unscored == 4

    logged = beside(openunlearning_figures(path), found)
    assert logged["forget_truth_ratio"] == {"logged": 0.375, "from_records": pytest.approx(0.375, abs=1e-8)}
    assert logged["mia_loss"] == {"logged": 0.75, "from_records": 0.75}
    assert logged["extraction_strength"] == {"logged": 0.2, "from_records": pytest.approx(0.2)}
    assert logged["mia_min_k"] == {"logged": 0.75, "from_records": 0.75}
    assert logged["forget_quality"] == {"logged": 0.5, "from_records": None}


def test_a_retain_models_log_gives_forget_quality(tmp_path: Path) -> None:
    path = written(tmp_path, LOG)
    records = read_openunlearning_log(path)
    found = summarise(records, SUITES["openunlearning"], resamples=100, reference_records=records)
    assert beside(openunlearning_figures(path), found)["forget_quality"]["from_records"] == 1
    assert found.comparisons["mia_reference"].value == 0.5


def test_what_its_code_could_not_compute_is_not_scored(tmp_path: Path) -> None:
    prob = {"0": {"prob": nan, "avg_loss": nan}, "1": {"prob": None, "avg_loss": None}}
    path = written(tmp_path, {"forget_Q_A_Prob": metric(prob)})
    found = summarise(read_openunlearning_log(path), SUITES["openunlearning"], resamples=100)
    assert (found.sets["forget"]["probability"].value, found.sets["forget"]["probability"].unscored) == (None, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"forget_Q_A_Prob": {"agg_value": 1.0}}, r"forget_Q_A_Prob: has no value_by_index; this layout"),
        ({"forget_Q_A_Prob": metric({"0": {"prob": 1.0}})}, r"forget_Q_A_Prob\.value_by_index\.0\.avg_loss: is \[\]"),
        ({"forget_Q_A_PERT_Prob": metric({"0": {"avg_loss": ["x"]}})}, r"PERT_Prob\.value_by_index\.0\.avg_loss: is"),
        ({"ra_Q_A_ROUGE": metric({"0": {"input": "q"}})}, r"ra_Q_A_ROUGE\.value_by_index\.0\.ground_truth: is None"),
        ({"mia_loss": metric({"0": {"score": 1.0}})}, r"mia_loss\.holdout: has no value_by_index"),
        ({"mia_loss": {"holdout": metric({"0": {}})}}, r"mia_loss\.holdout\.value_by_index\.0\.score: is 'absent'"),
        ({"retain_Q_A_Prob": metric({"x": {"avg_loss": 1.0}})}, r"the index 'x' of an item is no number"),
    ],
)
def test_an_unknown_layout_is_an_error_that_names_the_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_openunlearning_log(written(tmp_path, LOG | change))


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ({"forget_Q_A_Prob": 0.5, "model_utility": None}, r"holds aggregates alone, as TOFU_SUMMARY\.json does; give"),
        ([], r"is a list; OpenUnlearning's TOFU_EVAL\.json is an object"),
        ({"forget_quality": {"agg_value": 0.5}}, r"none of its metrics has value_by_index"),
        ({}, r"none of its metrics has value_by_index"),
    ],
)
def test_files_of_something_else(tmp_path: Path, log: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_openunlearning_log(written(tmp_path, log))


def test_no_file_and_no_json(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"TOFU_EVAL\.json: no such file"):
        read_openunlearning_log(tmp_path)
    (tmp_path / "log.json").write_text("{")
    with pytest.raises(UserError, match="no readable JSON"):
        read_openunlearning_log(tmp_path / "log.json")
