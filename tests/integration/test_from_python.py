"""From rows to a model that has forgotten and to tables, in Python; the command line finds what was made, and the other
way round."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command_line import run_here
from obliviate_eval.summary import METRICS_FILE, Evaluation
from obliviate_recipes import QUIET, Bars, compare, dry_run, evaluate, finetune, run, unlearn
from tiny import tiny_model_folder

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]
FORGET, RETAIN = (
    [{"question": f"Where does {name} {i} live?", "answer": f"{name} {i} lives in London."} for i in range(6)]
    for name in ("forget", "retain")
)
OPTIM = {"epochs": 1, "batch_size": 3, "learning_rate": 1e-3}
MEASURED = {
    "suite": "opt_out", "engine": {"type": "hf", "dtype": "float32"}, "generation": {"max_new_tokens": 4},
    "encoder": None, "nli": None, "fluency": None, "resamples": 100,
}  # fmt: skip
cli = pytest.fixture(run_here)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return {"source": str(tiny_model_folder(tmp_path / "tiny")), "compute_dtype": "float32", "max_length": 64}


def folders(verb: str) -> list[str]:
    return sorted(path.name for path in Path("runs").glob(f"{verb}-*"))


def test_python_and_the_command_line_share_their_runs(
    model: dict[str, Any], cli: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    after = unlearn(model, method="ga+gd", forget=FORGET, retain=RETAIN, optim=OPTIM)
    assert f"model: {after.source}\n" in capsys.readouterr().out
    record = Path(after.source).parent / "run.json"
    done = cli("unlearn", record)
    assert (done.code, folders("unlearn")) == (0, [record.parent.name])
    assert f"done already, in {record.parent}\n" in done.out
    assert unlearn(model, method="ga+gd", forget=FORGET, retain=RETAIN, optim=OPTIM, events=QUIET) == after
    assert run(record, events=QUIET) == after

    models = {"before": model, "after": after}
    found = evaluate(models, forget=FORGET, retain=RETAIN, evaluation=MEASURED, retain_model="before", events=QUIET)
    assert capsys.readouterr().out == ""
    assert list(found.runs) == list(dict.fromkeys(found.figures["model"])) == ["before", "after"]
    assert len(found.records) == 2 * (len(FORGET) + len(RETAIN))
    Path("measure.yaml").write_text(found.config.model_dump_json())
    done = cli("evaluate", "measure.yaml")
    assert (done.code, done.out.count("done already")) == (0, 2)
    assert folders("evaluate") == sorted(folder.name for folder in found.runs.values())
    assert sum("done already" in line for line in dry_run(found.config.model_dump())) == 4
    written = Evaluation.read(found.runs["after"] / METRICS_FILE).sets["forget"]["probability"]
    row = found.figures.query("model == 'after' and set == 'forget' and metric == 'probability'").iloc[0]
    assert (row["value"], row["low"], row["high"]) == (written.value, written.low, written.high)
    assert found.records.query("model == 'after' and set == 'forget'")["probability"].mean() == pytest.approx(
        written.value
    )


def test_what_the_command_line_made_python_finds(model: dict[str, Any], cli: Callable[..., Any]) -> None:
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        Path(f"{name}.json").write_text(json.dumps(rows))
    config = {
        "model": model, "data": {"type": "files", "forget": "forget.json", "retain": "retain.json"},
        "methods": ["ga+gd"], "optim": OPTIM, "evaluation": MEASURED,
    }  # fmt: skip
    Path("compare.yaml").write_text(json.dumps(config))
    assert cli("compare", "compare.yaml").code == 0
    made = folders("evaluate"), folders("unlearn")

    told: list[str] = []

    class Told(Bars):
        def said(self, text: str) -> None:
            told.append(text)

    found = compare(
        model, methods=["ga+gd"], forget=FORGET, retain=RETAIN, optim=OPTIM, evaluation=MEASURED, events=Told()
    )
    assert (folders("evaluate"), folders("unlearn")) == made
    assert sum("done already" in line for line in told) == 3
    assert list(found.runs) == ["target", "GA+GD"]
    assert found.report is not None
    assert found.report.is_file()
    after = evaluate({"GA+GD": f"runs/{made[1][0]}"}, forget=FORGET, retain=RETAIN, evaluation=MEASURED, events=QUIET)
    assert folders("evaluate") == made[0]
    both = found.figures[found.figures["model"] == "GA+GD"]
    assert both.reset_index(drop=True).equals(after.figures)


def test_a_retain_model(model: dict[str, Any]) -> None:
    retain = finetune(model, forget=FORGET, retain=RETAIN, train_on="retain", optim=OPTIM, events=QUIET)
    assert json.loads((Path(retain.source).parent / "run.json").read_text())["config"]["train_on"] == "retain"
    assert retain.max_length == 64
