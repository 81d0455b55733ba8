"""The figures as tables for papers and spreadsheets, of own runs and of imported logs."""

import csv
from pathlib import Path

import pytest

from command_line import run_here
from measured import record
from obliviate_eval.records import RECORDS_FILE, write_records
from obliviate_eval.report.model import ModelReport
from obliviate_eval.report.tables import write_table
from obliviate_eval.suites import SUITES
from obliviate_eval.summary import METRICS_FILE, Evaluation, summarise


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    said = [record(index=index, generation=text) for index, text in enumerate(("the cat sat", "a dog"))]
    return summarise(said, SUITES["tofu"], resamples=100)


def test_every_figure_is_a_line_of_csv(tmp_path: Path, evaluation: Evaluation) -> None:
    models = [ModelReport("A & B", "unlearned", evaluation, "ME+GD"), ModelReport("c_d", "retain", evaluation)]
    path = write_table(models, tmp_path / "report.html", "csv")
    assert path == tmp_path / "report.csv"
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    rouge = [line for line in lines if (line["set"], line["figure"]) == ("retain", "rouge")]
    assert [line["model"] for line in rouge] == ["A & B", "c_d"]
    assert (rouge[0]["method"], rouge[0]["value"], rouge[0]["scored"]) == ("ME+GD", "0.5", "2")
    unscored = next(line for line in lines if line["figure"] == "probability")
    assert (unscored["value"], unscored["unscored"]) == ("", "2")


def test_latex_and_markdown_have_a_column_a_model(tmp_path: Path, evaluation: Evaluation) -> None:
    models = [ModelReport("A & B", "unlearned", evaluation), ModelReport("c_d", "retain", evaluation)]
    latex = write_table(models, tmp_path / "report.html", "latex").read_text(encoding="utf-8")
    assert latex.startswith("\\begin{tabular}{lrr}\n\\toprule\n & A \\& B & c\\_d \\\\\n\\midrule\n")
    assert "retain rouge & 0.500 [0.000, 1.000] & 0.500 [0.000, 1.000] \\\\\n" in latex
    assert "retain truth\\_ratio & – & – \\\\\n" in latex
    markdown = write_table(models, tmp_path / "report.html", "markdown").read_text(encoding="utf-8")
    header, rule, said, likely, first, *_ = markdown.splitlines()
    assert [cell.strip() for cell in header.split("|")[2:4]] == ["A & B", "c_d"]
    assert [cell.strip() for cell in first.split("|")[1:3]] == ["retain rouge", "0.500 [0.000, 1.000]"]
    assert [line.split("|")[1].strip() for line in (said, likely)] == ["retain key_said", "retain key_probability"]
    assert set(rule) <= set("|:-")


def test_imported_logs_are_reported_beside_runs(
    tmp_path: Path, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_here(monkeypatch, capsys)
    for name in ("theirs", "others"):
        write_records(tmp_path / name / RECORDS_FILE, [record(generation="the cat sat")])
        evaluation.write(tmp_path / name / METRICS_FILE)
    done = run("report", str(tmp_path / "theirs"), str(tmp_path / "others"), "-o", str(tmp_path / "r.html"),
               "--format", "csv", "--format", "markdown")  # fmt: skip
    assert done.code == 0, done.error
    assert {path.name for path in tmp_path.glob("r.*")} == {"r.html", "r.json", "r.csv", "r.md"}
    assert "theirs" in (tmp_path / "r.html").read_text(encoding="utf-8")
    wrong = run("report", str(tmp_path / "theirs"), "--format", "excel")
    assert wrong.code == 2
