"""A report in a real Chromium: thousands of questions, a search, and what goes to the printer."""

from math import log
from pathlib import Path
from typing import Any

import pytest

from obliviate.data.rows import Role
from obliviate_eval.records import Probe, Record, ScoredAnswer
from obliviate_eval.report.build import build_report
from obliviate_eval.report.model import ModelReport
from obliviate_eval.statistics import Figure
from obliviate_eval.summary import Evaluation

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
pytestmark = pytest.mark.integration
MODELS, QUESTIONS = 25, 10_000


def report_of(models: int, questions: int, path: Path) -> Path:
    """Each model says something else; one question is about Noël, and one model says nothing to the last."""
    figures = {"forget_efficacy": Figure(value=0.6, low=0.5, high=0.7, scored=5, unscored=0)}
    figures["model_utility"] = figures["forget_efficacy"]
    found = Evaluation(
        suite="closer_look", roles={"forget": Role.FORGET}, sets={"forget": {"rouge": figures["model_utility"]}},
        aggregates=figures, forget_quality=None,
    )  # fmt: skip
    answer = {Probe.ANSWER: (ScoredAnswer("A truth", (log(0.5),)),)}
    reports = []
    for model in range(models):
        records = [
            Record(
                set="forget", role=Role.FORGET, index=index,
                question="Who is Noël?" if index == 7 else f"What did person {index} write in {1900 + index % 99}?",
                reference="A truth", full_reference="A truth",
                generation=f"Model {model} thinks that it was book {index * 31 % 977} of the {index % 13}th series.",
                answers=answer,
            )
            for index in range(questions)
        ]  # fmt: skip
        kind = ("target", "retain", "unlearned")[min(model, 2)]
        reports.append(ModelReport(f"model {model}", kind, found, records=records))  # type: ignore[arg-type]
    build_report("Many", reports, (), path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_of(3, 250, tmp_path_factory.mktemp("report") / "report.html")


def open_report(page: Any, path: Path) -> None:
    page.goto(path.as_uri())
    expect(page.locator("#found")).to_contain_text("questions")


def test_ten_thousand_questions_to_twenty_five_models(tmp_path: Path, page: Any) -> None:
    path = report_of(MODELS, QUESTIONS, tmp_path / "report.html")
    assert path.stat().st_size < 20e6  # as plain JSON some 25 MB
    open_report(page, path)
    expect(page.locator("#found")).to_have_text("1–10 of 10000 questions")
    expect(page.locator(".question").first.locator(".answer")).to_have_count(1 + MODELS)
    page.fill("#search", "person 9999 ")
    expect(page.locator("#found")).to_have_text("1–1 of 1 questions")


def test_a_search_folds_accents_and_case_and_leaves_out_hidden_models(small: Path, page: Any) -> None:
    open_report(page, small)
    page.fill("#search", "NOEL")
    expect(page.locator("#found")).to_have_text("1–1 of 1 questions")
    page.fill("#search", "model 2 thinks")
    expect(page.locator("#found")).to_have_text("1–10 of 250 questions")
    page.locator("[data-toggle='2']").click()
    expect(page.locator("#found")).to_have_text("No question matches.")


@pytest.mark.parametrize(("chosen", "count"), [("page", 10), ("100", 100), ("all", 250)])
def test_what_is_printed(small: Path, page: Any, chosen: str, count: int) -> None:
    """As many questions as were chosen, all of the provenance, in dark ink; afterwards the page is as it was."""
    page.emulate_media(color_scheme="dark")
    open_report(page, small)
    page.select_option("#printed", chosen)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    expect(page.locator(".question")).to_have_count(count)
    assert page.evaluate("document.documentElement.style.colorScheme") == "light"
    assert page.locator("details:not([open])").count() == 0
    expect(page.locator(".models .chip, .models button").first).to_be_visible()  # the legend
    expect(page.locator(".controls")).to_be_hidden()
    if chosen == "all":
        assert len(page.pdf()) > 100_000
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    expect(page.locator(".question")).to_have_count(10)
    assert page.locator("details:not([open])").count() > 0
