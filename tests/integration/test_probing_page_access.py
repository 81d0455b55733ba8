"""Whether everybody can use the probing page: with the keyboard alone, on a phone, in light and dark."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accessibility import findings
from browser import ask, card, shot, token, visit
from probing import QUESTION, TRUTH, Site

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
pytestmark = pytest.mark.integration


def overflow(page: Any) -> int:
    """CSS pixels by which the page is wider than its window."""
    width: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return width


def test_keyboard(site: Site, page: Any) -> None:
    visit(page, site)
    page.press("body", "2")
    expect(page.locator("#models button[value=retain]")).to_have_attribute("aria-pressed", "false")
    page.press("body", "/")
    page.keyboard.type("d?2")  # text, not shortcuts
    assert page.input_value("#question") == "d?2"
    page.keyboard.press("Escape")
    page.press("body", "?")
    expect(page.locator("#help")).to_be_visible()
    shot(page, "help")
    page.uncheck("#single-keys")
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    page.press("body", "h")
    expect(page.locator("#history")).to_be_hidden()
    page.reload()
    assert not page.is_checked("#single-keys")


CONTRASTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const over = (ground, colour) => {  // [r, g, b] of a colour upon a ground
    canvas.fillStyle = `rgb(${ground})`; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((c) => c / 255).map((c) => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const ground = (each) =>
    each ? over(ground(each.parentElement), getComputedStyle(each).backgroundColor) : [255, 255, 255];
  const skipped = '.unseen, .skip, :disabled, noscript';
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const each = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !each.checkVisibility() || each.closest(skipped)) continue;
    const behind = ground(each);
    const [a, b] = [behind, over(behind, getComputedStyle(each).color)].map(light);
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    found.push([ratio, `${each.tagName}.${each.className}: ${each.textContent}`]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out(site: Site, page: Any, scheme: str) -> None:
    """WCAG 2.2 AA: at least 4.5 to 1, of tokens in their deepest colour as well."""
    page.emulate_media(color_scheme=scheme)
    visit(page, site)
    assert page.get_attribute("html", "data-theme") == scheme
    site.backend.labels = ["contradiction"]
    ask(page, 6, "prefix_sure")
    page.select_option("#differences", "original")
    token(page, "retain", "Vienna").focus()
    for colour in ("logp", "entropy", "gain", "climb"):
        page.check(f"[name=colour][value={colour}]", force=True)
        token(page, "unlearned", "painter").focus()
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 100
        assert [each for each in contrasts if each[0] < 4.5] == []
        shot(page, f"{scheme}-{colour}")
    page.click("#theme")
    page.reload()
    assert page.get_attribute("html", "data-theme") != scheme  # the choice outweighs the system's


def test_on_a_phone(site: Site, page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    visit(page, site)
    assert overflow(page) == 0
    shot(page, "phone-empty")
    ask(page, 9, "prefix_sure", "jailbreak_role")
    assert overflow(page) == 0
    shot(page, "phone")
    token(page, "retain", "Vienna").click()
    expect(page.locator("#inspector")).to_be_visible()
    box = page.locator("#inspector").bounding_box()
    assert box["x"] == 0
    assert box["width"] == 360
    assert round(box["y"] + box["height"]) == 740
    for dialog in ("history", "help"):
        page.click(f"#{dialog}-button")
        assert overflow(page) == 0
        page.click(f"#{dialog} [data-close]")
    page.fill("#question", "Donaudampfschifffahrtsgesellschaft" * 20)
    page.click("#ask")
    expect(page.locator("#results-title")).to_contain_text("Donau")
    assert overflow(page) == 0


def test_every_control_has_a_name(site: Site, page: Any) -> None:
    visit(page, site)
    ask(page, 3)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea, [role=listbox], dialog')]
             .filter((each) => !(each.textContent.trim() && each.tagName === 'BUTTON') && !each.labels?.length
               && !each.ariaLabel && !each.getAttribute('aria-labelledby')).map((each) => each.outerHTML)"""
    )
    assert nameless == []
    page.evaluate("scrollTo(0, 0)")
    page.locator("body").press("Tab")
    seen = []
    for _ in range(12):
        seen.append(page.evaluate("getComputedStyle(document.activeElement).outlineStyle"))
        page.keyboard.press("Tab")
    assert set(seen) <= {"solid", "auto"}  # a ring around whatever has the focus


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_site: Callable[..., Site], page: Any, tmp_path: Path, scheme: str) -> None:
    """With tokens that are white space or nothing, many models, and all that can be opened."""
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": QUESTION, "answer": TRUTH}) + "\n", encoding="utf-8")
    site = open_site(data={"type": "files", "forget": str(tmp_path / "rows.jsonl")})
    site.backend.says["retain"] = "Ilka ⏎ ␣ ∅ Vienna"
    site.backend.labels = ["entailment"]
    page.emulate_media(color_scheme=scheme)
    visit(page, site)
    assert findings(page) == []
    for details in ("more", "sampling", "sets"):
        page.locator(f"#{details} > summary").click()
    page.click("#add-turn")
    page.click("#models button[value=production]")
    page.click("#models button[value=rare]")
    page.fill("#samples", "1")
    ask(page, 10, "prefix_sure")
    names = (
        card(page, "retain")
        .locator("[data-kind=greedy] .token")
        .evaluate_all("all => all.map((each) => each.ariaLabel)")
    )
    assert names == [None, "line end", "space, space", "empty token", None, None]
    page.select_option("#set", "forget")
    page.click("#set-ask")
    expect(page.locator("#set-status")).to_have_text("1 of 1 question, done")
    assert findings(page) == []
    token(page, "retain", "Vienna").focus()
    assert findings(page) == []
    page.click("#help-button")
    assert findings(page) == []
    page.keyboard.press("Escape")
    card(page, "retain").locator("button", has_text="Prompt").click()
    expect(page.locator("#prompt-text")).to_contain_text(QUESTION)
    assert findings(page) == []


def test_the_table_is_read_and_used_without_a_pointer(
    open_site: Callable[..., Site], page: Any, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": QUESTION, "answer": TRUTH}) + "\n", encoding="utf-8")
    site = open_site(data={"type": "files", "forget": str(tmp_path / "rows.jsonl")})
    visit(page, site)
    page.locator("#sets > summary").press("Enter")
    page.focus("#set")
    page.keyboard.type("forget")
    page.keyboard.press("Enter")
    expect(page.locator("#set")).to_have_value("forget")
    page.focus("#set-ask")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").filter(has_text="1 of 1 question, done")).to_be_visible()
    cell = page.get_by_role("button", name=f"Open “{QUESTION}”: unlearned, none, gone")
    cell.press("Enter")
    expect(page.get_by_role("heading", name=QUESTION)).to_be_visible()
    assert page.evaluate("document.activeElement.querySelector('h4').textContent") == "unlearned"
    expect(page.get_by_role("listbox", name="Tokens of the true answer under unlearned")).to_be_visible()


def test_on_a_phone_the_table_says_that_it_scrolls(site: Site, page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    visit(page, site)
    ask(page, 6, "prefix_sure")
    matrix = page.get_by_role("region", name="Attacks by model")
    expect(matrix).to_have_class(re.compile("scrolls"))
    assert "scroll sideways" in matrix.locator("caption").evaluate("each => getComputedStyle(each, '::after').content")
    matrix.focus()
    page.keyboard.press("ArrowRight")
    expect(matrix).not_to_have_js_property("scrollLeft", 0)
    page.set_viewport_size({"width": 1360, "height": 740})
    expect(matrix).not_to_have_class(re.compile("scrolls"))
    expect(matrix).not_to_have_attribute("tabindex", "0")
