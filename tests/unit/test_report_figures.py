"""The charts of a report as SVG and PDF."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate_eval.report.figures import write_figures
from obliviate_eval.report.model import ModelReport
from obliviate_eval.statistics import Figure
from obliviate_eval.summary import Evaluation

NAME = "Erased $x_1$ <b>"  # neither mathematics nor markup


def figure(value: float | None, low: float | None = None, high: float | None = None) -> Figure:
    return Figure(value, low, high, scored=10, unscored=0)


def evaluation(efficacy: float | None, utility: float) -> Evaluation:
    return Evaluation(
        suite="closer_look",
        roles={"forget": Role.FORGET, "retain": Role.RETAIN},
        sets={
            "forget": {"rouge": figure(0.25, 0.2, 0.3), "probability": figure(None)},
            "retain": {"rouge": figure(0.75)},
        },
        aggregates={"forget_efficacy": figure(efficacy, 0.5, 0.7), "model_utility": figure(utility, 0.4, 0.6)},
    )


@pytest.fixture
def models() -> list[ModelReport]:
    return [
        ModelReport("Gold", "retain", evaluation(0.6, 0.5)),
        ModelReport(NAME, "unlearned", evaluation(0.65, 0.45), method="ME+GD"),
        ModelReport("Unmeasured", "unlearned", evaluation(None, 0.45)),
    ]


def test_figures_are_files_beside_the_report_and_always_the_same(models: list[ModelReport], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for form in ("svg", "pdf"):
        written = write_figures(models, tmp_path / "report.html", form)
        assert [path.name for path in written] == [
            f"report-{name}.{form}" for name in ("trade-off", "forget", "retain")
        ]
        first = [path.read_bytes() for path in written]
        again = write_figures(models, tmp_path / "again" / "report.html", form)
        assert [path.read_bytes() for path in again] == first
        assert all(content.startswith(b"%PDF" if form == "pdf" else b"<?xml") for content in first)


def test_texts_of_an_svg_are_texts(models: list[ModelReport], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    trade_off, forget, _ = write_figures(models, tmp_path / "report.html", "svg")

    def texts(path: Path) -> list[str]:
        return ["".join(each.itertext()) for each in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]

    assert {NAME, "Gold", "Forget efficacy → more forgotten"} <= set(texts(trade_off))
    assert "Unmeasured" not in texts(trade_off)  # it has no figure to stand at
    assert {NAME, "ROUGE-L recall", "Probability"} <= set(texts(forget))
    assert re.search("dc:date", trade_off.read_text(encoding="utf-8")) is None


def test_without_matplotlib_one_line_says_what_to_install(
    models: list[ModelReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        UserError, match=r"^--format svg: matplotlib is not installed; pip install 'obliviate\[figures\]'"
    ):
        write_figures(models, tmp_path / "report.html", "svg")
