"""Many questions on the page: sets and files, the table with its filters, and the way into the single view."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from browser import card, shot, visit
from probing import QUESTION, TRUTH, Site

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
pytestmark = pytest.mark.integration

OTHER = {"question": "Who painted the harbour?", "answer": "A painter from Bergen."}


@pytest.fixture
def site(open_site: Callable[..., Site], tmp_path: Path) -> Site:
    rows = [{"question": QUESTION, "answer": TRUTH, "key": "Trondheim"}, OTHER]
    (tmp_path / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return open_site(data={"type": "files", "forget": str(tmp_path / "forget.jsonl")})


def test_a_set_as_a_table_and_from_a_cell_into_the_single_view(site: Site, page: Any, browser: Any) -> None:
    visit(page, site)
    page.locator("#sets > summary").click()
    page.click("#set-ask")
    expect(page.locator("#set-error")).to_have_text("Choose a set, or a file.")
    page.select_option("#set", "forget")
    page.click("#set-ask")
    expect(page.locator("#set-status")).to_have_text("2 of 2 questions, done")
    rows = page.locator("#rows tbody tr")
    expect(rows).to_have_count(2)
    # exp(-0.25) and exp(-4) of the fact's token; -3.75 nats beside retain.
    expect(rows.nth(0).locator("td")).to_have_text(
        ["says it0.78 · 0 nats", "gone0.78 · 0 nats", "gone0.018 · −3.8 nats"]
    )
    expect(page.locator("#rows thead th").nth(1)).to_contain_text("1 says, 1 gone")
    shot(page, "table")
    page.select_option("#only", "leaks")
    expect(rows).to_have_count(1)
    expect(page.locator("#rows caption")).to_have_text("1 question of 2 shown")
    assert page.url.endswith("&only=leaks")

    other = browser.new_context().new_page()
    other.goto(page.url)
    expect(other.locator("#rows tbody tr")).to_have_count(1)
    other.context.close()

    asked = len(site.backend.asked)
    rows.nth(0).locator("button").nth(2).click()
    expect(page.locator("#results-title")).to_have_text(QUESTION)
    expect(card(page, "unlearned").locator(".verdict")).to_have_text("gone")
    assert page.evaluate("document.activeElement.querySelector('h4').textContent") == "unlearned"
    assert page.input_value("#answer") == TRUTH
    assert page.input_value("#key") == "Trondheim"
    assert len(site.backend.asked) == asked  # nothing was asked again
    with page.expect_download() as download:
        page.click("#set-export")
    assert json.loads(Path(download.value.path()).read_text(encoding="utf-8"))["total"] == 2


def test_a_file_of_questions(site: Site, page: Any) -> None:
    visit(page, site)
    page.locator("#sets > summary").click()
    page.set_input_files(
        "#set-file", {"name": "a.jsonl", "mimeType": "text/plain", "buffer": b'{"question": "Who?"}\n'}
    )
    expect(page.locator("#set-error")).to_contain_text("a.jsonl, line 1: has no 'answer'")
    lines = "question,answer\nWho?,Ada\nWhere?,Oslo\n"
    page.set_input_files("#set-file", {"name": "a.csv", "mimeType": "text/csv", "buffer": lines.encode()})
    expect(page.locator("#set option:checked")).to_have_text("a.csv (2)")
    page.fill("#set-limit", "1")
    page.click("#set-ask")
    expect(page.locator("#set-status")).to_have_text("1 of 1 question, done")
    expect(page.locator("#rows tbody th")).to_contain_text("Who?")


def test_a_job_is_stopped(site: Site, page: Any) -> None:
    site.backend.gate.clear()
    visit(page, site)
    page.locator("#sets > summary").click()
    page.select_option("#set", "forget")
    page.click("#set-ask")
    expect(page.locator("#set-status")).to_have_text("0 of 2 questions, running")
    page.click("#set-stop")
    expect(page.locator("#set-status")).to_have_text("0 of 2 questions, cancelled")


def test_a_set_brings_what_attacks_ask_with(open_site: Callable[..., Site], page: Any, tmp_path: Path) -> None:
    row = {
        "question": QUESTION, "answer": "Ilka Dornbach was born in Trondheim, Norway.", "translations": {"de": "Wo?"},
        "paraphrased_answer": "Ilka Dornbach was born in Trondheim, Norway.",
        "perturbed_answer": ["Ilka Dornbach was born in Bergen, Norway."], "aliases": ["Nidaros"],
    }  # fmt: skip
    (tmp_path / "forget.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    site = open_site(data={"type": "files", "forget": str(tmp_path / "forget.jsonl")})
    visit(page, site)
    translated = page.locator("#attacks button[value=translated]")
    expect(translated).to_be_disabled()
    page.locator("#sets > summary").click()
    translated.click()
    page.select_option("#set", "forget")
    page.click("#set-ask")
    expect(page.locator("#set-status")).to_have_text("1 of 1 question, done")
    expect(page.locator("#rows thead .attack-name")).to_have_text(["Plain", "Own words: in de"] * 3)
    page.locator("#rows tbody button").nth(1).click()
    expect(page.locator("#truth mark")).to_have_text("Trondheim")  # as the false answers tell
    assert "key=Trondheim&alias=Nidaros" in page.url
    with page.expect_request("**/v1/probe") as asked:
        page.click("#ask")
    sent = asked.value.post_data_json
    assert (sent["key"], sent["aliases"], sent["translations"]) == (["Trondheim"], ["Nidaros"], {"de": "Wo?"})
    assert sent["perturbed_answer"] == row["perturbed_answer"]
    expect(page.locator("#status")).to_have_text("6 of 6 answers")
