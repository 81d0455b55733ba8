"""`obliviate paired` and `obliviate rescore` on records alone."""

import json
import sys
from pathlib import Path

import pytest

from measured import record
from obliviate.data.rows import Role
from obliviate_cli.main import main
from obliviate_eval.records import RECORDS_FILE, Probe, ScoredAnswer, write_records
from obliviate_eval.suites import SUITES
from obliviate_eval.summary import METRICS_FILE, summarise


def run(folder: Path, shift: float) -> Path:
    """An evaluation run of the suite tofu: six forget and four holdout items."""
    records = []
    for role, count in ((Role.FORGET, 6), (Role.HOLDOUT, 4)):
        for i in range(count):
            tokens = (-0.1 * (i + 1) - shift * (role is Role.FORGET), 0.0)
            answer = ScoredAnswer("the cat sat", tokens, (True, True))
            records.append(record(role, index=i, answers={Probe.ANSWER: (answer,)}, generation="the cat"))
    write_records(folder / RECORDS_FILE, records)
    summarise(records, SUITES["tofu"], resamples=100).write(folder / METRICS_FILE)
    return folder


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["obliviate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_paired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = run(tmp_path / "first", 0.0), run(tmp_path / "second", 1.0)
    assert command(monkeypatch, "paired", first, second, "-o", tmp_path / "out.json") == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if "forget probability" in line)
    assert "0.031" in row  # all six are lower: 2 / 2^6
    assert "mia_loss" in printed
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["sets"]["forget"]["probability"]["value"] < 0
    assert written["comparisons"]["mia_loss"]["value"] < 0  # harder forget texts look less trained on


def test_paired_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(tmp_path / "first", 0.0)
    assert command(monkeypatch, "paired", first, first, "--suite", "tofoo") == 2
    assert "error: --suite tofoo: no such suite; there are closer_look" in capsys.readouterr().err
    assert command(monkeypatch, "paired", first, tmp_path / "nowhere") == 2
    assert "no readable parquet file" in capsys.readouterr().err


def test_rescore_takes_comparisons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, output = run(tmp_path / "first", 0.0), tmp_path / "out.json"
    asked = ("--metric", "mia_min_k k=0.2", "--metric", "rouge")
    assert command(monkeypatch, "rescore", first, *asked, "-o", output) == 0
    assert "mia_min_k" in capsys.readouterr().out
    [found] = json.loads(output.read_text()).values()
    assert list(found["comparisons"]) == ["mia_min_k"]
    assert found["comparisons"]["mia_min_k"]["scored"] == 10
    assert list(found["sets"]["forget"]) == ["rouge"]
