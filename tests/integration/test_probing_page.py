"""What the probing page does, in a real Chromium on the real web application."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from browser import ask, card, shot, token, visit
from obliviate_serve.api import Asked, StartEvent, TokenEvent, TokenInfo
from obliviate_serve.auth import Role, new_token
from obliviate_serve.engine import Quiz
from probing import FACT, QUESTION, SAYS, TRUTH, Site

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
pytestmark = pytest.mark.integration


def test_answers_stream_side_by_side(site: Site, page: Any) -> None:
    site.backend.gate.clear()
    visit(page, site)
    page.fill("#question", QUESTION)
    page.fill("#answer", TRUTH)
    page.keyboard.press("Control+Enter")
    for model, begun in (("original", "Ilka Dornbach"), ("retain", "Ilka Dornbach"), ("unlearned", "I am not")):
        expect(card(page, model).locator(".tokens").first).to_have_text(begun)
        expect(card(page, model)).to_have_attribute("aria-busy", "true")
    expect(page.locator("#status")).to_have_text("0 of 3 answers")
    card(page, "retain").locator("[data-kind=truth] .token").nth(4).focus()
    shot(page, "streaming")
    site.backend.gate.set()
    expect(page.locator("#status")).to_have_text("3 of 3 answers")
    assert page.evaluate("document.activeElement.textContent") == " in"  # what comes takes nobody's focus
    expect(page.locator("#inspector")).to_contain_text("−0.25 nats")
    expect(card(page, "retain").locator(".tokens").first).to_have_text(
        "Ilka Dornbach was born in Vienna, Austria.<|im_end|>"
    )
    expect(card(page, "retain").locator(".unsaid").first).to_have_text("<|im_end|>")
    expect(card(page, "unlearned").locator(".badge:not(.verdict)")).to_have_text("refuses")
    assert page.locator("section.attack").count() == 1
    assert page.locator("#matrix").is_hidden()
    tops = {round(box["y"]) for box in (each.bounding_box() for each in page.locator(".card").all())}
    assert len(tops) == 1


def test_stopping_keeps_what_has_come(site: Site, page: Any) -> None:
    site.backend.gate.clear()
    visit(page, site)
    page.fill("#question", QUESTION)
    page.click("#ask")
    expect(card(page, "retain").locator(".tokens")).to_have_text("Ilka Dornbach")
    page.press("body", "Escape")
    expect(page.locator("#cut")).to_have_text("Stopped after 0 of 3 answers.")
    expect(card(page, "retain").locator(".tokens")).to_have_text("Ilka Dornbach")
    expect(page.locator("#stop")).to_be_hidden()


def test_figures_of_a_token(site: Site, page: Any) -> None:
    visit(page, site)
    ask(page, 3)
    inspector = page.locator("#inspector")
    token(page, "retain", "Vienna").hover()
    # exp(-3.5) = 0.0302, exp(-2.5) = 0.0821, exp(-5) = 0.00674; the entropy is 1 + 3.5.
    expect(inspector).to_contain_text("␣Viennatoken 7 of 11")
    expect(inspector).to_contain_text("log-probability−3.5 natsprobability0.030entropy4.5 nats")
    expect(inspector.locator("tbody tr")).to_have_text(["␣Vienna0.030−3.5", "␣Oslo0.082−2.5", "⏎0.0067−5"])
    expect(inspector.locator("tr.chosen")).to_have_count(1)
    page.mouse.move(0, 0)
    expect(inspector).to_be_hidden()

    token(page, "retain", "Vienna").focus()
    expect(inspector).to_contain_text("−3.5 nats")
    page.keyboard.press("ArrowLeft")
    expect(inspector).to_contain_text("␣intoken 6 of 11")
    page.keyboard.press("ArrowUp")  # the same place in the answer of the model before
    expect(inspector).to_contain_text("␣intoken 6 of 16")
    page.keyboard.press("ArrowRight")
    expect(inspector).to_contain_text("␣Trondtoken 7 of 16")
    page.keyboard.press("End")
    expect(inspector).to_contain_text("<|im_end|>token 16 of 16")
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "inspector"
    page.keyboard.press("Escape")
    expect(inspector).to_be_hidden()


def test_colours_follow_the_figures(site: Site, page: Any) -> None:
    visit(page, site)
    ask(page, 3)

    def alpha(text: str) -> float:
        background = token(page, "retain", text).evaluate("each => getComputedStyle(each).backgroundColor")
        found = re.search(r"/ ([\d.]+)\)$", background)
        return 0.0 if background == "rgba(0, 0, 0, 0)" else float(found[1]) if found else 1.0

    # Heat is |value| / 5 nats.
    assert alpha("Vienna") == pytest.approx(3.5 / 5, abs=0.01)
    assert alpha("Austria") == pytest.approx(0.75 / 5, abs=0.01)
    page.press("body", "c")
    assert page.locator("#colour input:checked").get_attribute("value") == "entropy"
    assert alpha("Vienna") == pytest.approx(4.5 / 5, abs=0.01)
    assert alpha("born") == pytest.approx(0.25 / 5, abs=0.01)
    page.press("body", "c")
    assert alpha("Vienna") == 0


def test_attacks_differences_and_the_true_answer(site: Site, page: Any) -> None:
    visit(page, site)
    assert page.locator("#attacks button[value=in_context]").is_disabled()
    page.fill("#context", FACT)
    ask(page, 12, "prefix_sure", "jailbreak_role", "in_context")
    headings = page.locator("section.attack h3")
    expect(headings).to_contain_text(["Plain", "Prefix injection: sure", "Jailbreak: role", "In context: facts"])
    expect(card(page, "unlearned", 1).locator(".prefix")).to_have_text("Sure, I know this. The answer is:")
    expect(card(page, "unlearned", 1).locator(".tokens").first).to_have_text("born in Trondheim.<|im_end|>")
    page.locator("section.attack").nth(3).locator("summary").click()
    expect(page.locator("section.attack").nth(3).locator(".worded p")).to_contain_text(FACT)

    # exp(-4) and exp(-0.25), the mean over the tokens of the true answer.
    rows = page.locator("#matrix tbody tr")
    expect(rows.nth(0).locator("td")).to_have_text(["0.78says it", "0.78gone", "0.018gonerefuses"])
    expect(rows.nth(1).locator("td")).to_have_text(["0.78says it", "0.78gone", "0.78says it"])
    rows.nth(1).locator("button").nth(2).click()
    assert page.evaluate("document.activeElement.querySelector('h4').textContent") == "unlearned"

    page.select_option("#differences", "original")
    expect(card(page, "original").locator(".differs")).to_have_count(0)
    expect(card(page, "retain").locator(".differs")).to_have_text(["Vienna", "Austria"])
    page.select_option("#differences", label="from the true answer")
    expect(card(page, "original").locator(".differs")).to_have_text(["on", "the", "coast", "of", "Norway"])
    shot(page, "attacks")


def test_differences_are_those_outside_the_longest_common_subsequence(site: Site, page: Any) -> None:
    visit(page, site)
    cases = [
        ("a b c", "a c", [[2, 3]]),
        ("A, b", "a b", []),
        ("", "a", []),
        ("a b", "", [[0, 1], [2, 3]]),
        ("c a b", "a b c", [[0, 1]]),  # "a b" is longer than "c"
        (
            "東京です",
            "京都です",
            None,
        ),  # words that no space parts: whatever they are, both ends of each are in the text
    ]
    for said, reference, wanted in cases:
        found = page.evaluate("async ([a, b]) => (await import('/diff.js')).differing(a, b)", [said, reference])
        if wanted is None:
            assert all(0 <= first < last <= len(said) for first, last in found)
        else:
            assert found == wanted
    marked = page.evaluate(
        "async () => (await import('/diff.js')).marks([{text: 'Vi'}, {text: 'enna'}, {text: ', Au'}], [[0, 6]])"
    )
    assert marked == [True, True, False]


def test_events_are_read_however_they_are_cut(site: Site, page: Any) -> None:
    visit(page, site)
    found = page.evaluate(
        """async () => {
          const {events} = await import('/api.js');
          const lines = [': wait', '', 'data: {"a":"é"}\\r', '\\r', 'data: {"b":2}', '', 'data: [DONE]', '', ''];
          const bytes = new TextEncoder().encode(lines.join('\\n'));
          const stream = new ReadableStream({
            start(to) { for (const byte of bytes) to.enqueue(new Uint8Array([byte])); to.close(); },
          });
          const found = [];
          for await (const event of events(stream)) found.push(event);
          return found;
        }"""
    )
    assert found == [{"a": "é"}, {"b": 2}]


def test_a_link_carries_the_probe_but_asks_nothing(site: Site, page: Any, browser: Any) -> None:
    visit(page, site)
    page.locator("#sampling summary").click()
    page.fill("#max_tokens", "7")
    page.fill("#samples", "2")
    page.click("#models button[value=retain]")
    ask(page, 4, "prefix_sure")
    expect(card(page, "original").locator("li")).to_have_count(2)
    page.press("body", "c")
    page.select_option("#differences", "original")
    link = page.url
    assert link.startswith(site.url + "#q=")

    asked = len(site.backend.asked)
    other = browser.new_context().new_page()
    other.goto(link)
    expect(other.locator("#ask")).to_have_text("Ask 2 models × 2 attacks")
    assert len(site.backend.asked) == asked
    assert other.input_value("#question") == QUESTION
    assert other.input_value("#answer") == TRUTH
    assert other.input_value("#max_tokens") == "7"
    other.click("#ask")
    expect(other.locator("#status")).to_have_text("4 of 4 answers")
    assert other.url == link
    expect(card(other, "unlearned").locator(".figures").first).to_contain_text("7 tokens · log P")
    expect(card(other, "unlearned").locator(".figures").first).to_contain_text("cut at 7 tokens")
    other.context.close()


def test_copying(site: Site, page: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site.url)
    visit(page, site)
    ask(page, 3)
    card(page, "retain").locator("button", has_text="Copy").click()
    expect(card(page, "retain").locator("button", has_text="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "Ilka Dornbach was born in Vienna, Austria."
    page.press("body", "l")
    expect(page.locator("#link")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    expect(page.locator("#link")).to_have_text("Copy link")

    page.add_init_script("delete Navigator.prototype.clipboard")  # as on a page over plain HTTP from another machine
    page.reload()
    ask(page, 3)
    assert card(page, "retain").locator("button", has_text="Copy").count() == 0
    page.click("#link")
    expect(page.locator("#copied-link")).to_have_value(page.url)


def test_history_and_export_hold_the_whole_probe(site: Site, page: Any) -> None:
    visit(page, site)
    ask(page, 3)
    with page.expect_download() as download:
        page.press("body", "e")
    exported = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert download.value.suggested_filename == f"{exported['id']}.json"
    assert exported["request"]["question"] == QUESTION
    asked = exported["request"] | {"stream": False}
    whole = page.request.post(site.url + "v1/probe", data=asked).json()
    assert exported["results"] == whole["results"]  # the same as without a page

    page.reload()
    before = len(site.backend.asked)
    expect(page.locator("#ask")).to_be_visible()
    page.press("body", "h")
    shot(page, "history")
    page.locator("#entries .entry").click()
    expect(card(page, "retain").locator(".tokens").first).to_have_text(
        "Ilka Dornbach was born in Vienna, Austria.<|im_end|>"
    )
    assert len(site.backend.asked) == before
    page.press("body", "h")
    page.click("#clear")
    expect(page.locator("#entries")).to_have_text("Nothing has been asked yet.")
    assert page.evaluate("localStorage['obliviate.history']") == "[]"


def test_a_model_that_dies_leaves_the_others_alone(site: Site, page: Any) -> None:
    site.backend.dying = "original"
    visit(page, site)
    ask(page, 3)
    expect(card(page, "original").locator("[role=alert]")).to_have_text(
        "the replica of original died while it answered"
    )
    expect(card(page, "original").locator(".tokens").first).to_have_text("Ilka Dornbach")
    expect(card(page, "unlearned").locator(".badge:not(.verdict)")).to_have_text("refuses")
    shot(page, "failed")


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("", "The answers ended before they were complete."),
        ("data: {broken\n\n", "The server sent what is no event."),
        ('data: {"error": {"message": "too late", "type": "server_error"}}\n\n', "too late"),
    ],
)
def test_a_stream_that_breaks_off_leaves_what_has_come(site: Site, page: Any, last: str, message: str) -> None:
    asked = Asked(model="original", served_model="original", attack="none", question=QUESTION, prefix="")
    said = TokenInfo(text="Ilka", logp=-0.5, entropy=None, alternatives=[])
    events = [StartEvent(id="probe-1", deterministic=False, asked=[asked]), TokenEvent(index=0, token=said)]
    body = "".join(f"data: {event.model_dump_json()}\n\n" for event in events) + last
    page.route("**/v1/probe", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    visit(page, site)
    page.fill("#question", QUESTION)
    page.click("#ask")
    expect(page.locator("#cut")).to_have_text(message)
    expect(card(page, "original").locator(".tokens")).to_have_text("Ilka")
    expect(card(page, "original")).to_have_attribute("aria-busy", "false")
    token(page, "original", "Ilka").focus()
    expect(page.locator("#inspector")).to_contain_text("entropy– natsNo alternatives were asked for.")


def test_mistakes_are_told_beside_the_field(site: Site, page: Any) -> None:
    visit(page, site, "#q=Who%3F&model=vanished&attack=none")
    expect(page.locator(".go [role=alert]")).to_have_text("The link names what is not served here: vanished.")
    page.click("#ask")
    expect(page.locator("[data-param=models] [role=alert]")).to_have_text("Choose at least one model.")
    page.click("#models button[value=rare]")
    page.click("#attacks button[value=none]")
    page.click("#ask")
    expect(page.locator("[data-param=attacks] [role=alert]")).to_contain_text("Choose at least one attack")
    assert page.locator("[data-param=models] [role=alert]").count() == 0
    page.click("#attacks button[value=none]")
    page.evaluate("document.getElementById('samples').max = 99")
    page.evaluate("document.getElementById('samples').value = 17")
    page.click("#ask")
    expect(page.locator("[data-param=samples] [role=alert]")).to_have_text(
        "samples: Input should be less than or equal to 16"
    )
    assert page.get_attribute("#samples", "aria-invalid") == "true"
    page.fill("#samples", "0")
    page.click("#ask")
    expect(card(page, "rare").locator(".waiting")).to_have_text("(says nothing)")


def test_a_busy_server_and_one_that_is_gone(open_site: Callable[..., Site], page: Any) -> None:
    site = open_site(limits={"requests_per_token": 1})
    visit(page, site)
    page.fill("#question", QUESTION)
    site.backend.gate.clear()
    other = page.context.new_page()
    other.goto(page.url + "#q=x&model=original&attack=none")
    expect(other.locator("#ask")).to_have_text("Ask 1 model")
    other.click("#ask")
    expect(card(other, "original").locator(".tokens")).to_have_text("Ilka Dornbach")
    page.click("#ask")
    expect(page.locator(".go [role=alert]")).to_contain_text("Worth another try in 1 s.")
    site.backend.gate.set()
    expect(other.locator("#status")).to_have_text("1 of 1 answer")
    page.click(".go [role=alert] button")
    expect(page.locator("#status")).to_have_text("3 of 3 answers")
    site.stop()
    page.click("#ask")
    expect(page.locator(".go [role=alert]")).to_have_text("The server cannot be reached.")


def test_tokens_are_asked_for_and_kept_in_the_tab(open_site: Callable[..., Site], page: Any, tmp_path: Path) -> None:
    lines = {role: new_token(f"my-{role}", role) for role in (Role.QUERY, Role.PROBE)}
    (tmp_path / "tokens").write_text("".join(f"{line}\n" for _, line in lines.values()))
    site = open_site(tokens=str(tmp_path / "tokens"))
    page.goto(site.url)
    problem = page.locator("#access-error")
    expect(problem).to_have_text("This server asks for a token.")
    shot(page, "token")
    for given, message in (
        ("wrong", "give a valid token: Authorization: Bearer TOKEN"),
        ("zwölf", "A token has no spaces and no accents."),
        (lines[Role.QUERY][0], "this token may query; this needs probe"),
    ):
        page.fill("#token", given)
        page.keyboard.press("Enter")
        expect(problem).to_have_text(message)
    page.fill("#token", lines[Role.PROBE][0])
    page.keyboard.press("Enter")
    expect(page.locator("#access")).to_be_hidden()
    ask(page, 3)
    assert lines[Role.PROBE][0] not in page.url + json.dumps(page.evaluate("({...localStorage})"))
    page.reload()
    expect(page.locator("#ask")).to_be_visible()
    page.click("#token-button")
    page.click("#forget-token")
    expect(problem).to_have_text("This server asks for a token.")
    assert page.evaluate("sessionStorage.length") == 0


def alpha(span: Any) -> float:
    """How deep a token's colour is."""
    background = span.evaluate("each => getComputedStyle(each).backgroundColor")
    found = re.search(r"/ ([\d.]+)\)$", background)
    return 0.0 if background == "rgba(0, 0, 0, 0)" else float(found[1]) if found else 1.0


def test_what_unlearning_changed(site: Site, page: Any) -> None:
    """-0.25 nats and rank 2 of each token under the reference, -4 and rank 500 under the unlearned model: 3.75 nats
    less, and log(500 / 2) = 5.5 nats down the ranks, beyond the scale's 5."""
    visit(page, site)
    assert page.input_value("#reference") == "retain"
    ask(page, 6, "prefix_sure")
    expect(page.locator("#truth mark")).to_have_text("Trondheim")
    expect(page.locator("#key-source")).to_contain_text("Key fact guessed")
    expect(card(page, "original").locator(".verdict")).to_have_text("says it")
    expect(card(page, "unlearned").locator(".verdict")).to_have_text("gone")
    expect(card(page, "unlearned", 1).locator(".verdict")).to_have_text("says it")
    expect(page.locator("#matrix tbody tr").nth(0).locator(".verdict")).to_have_text(["says it", "gone", "gone"])
    fact = card(page, "unlearned").locator("[data-kind=truth] .token.key")
    expect(fact).to_have_text([" Trondheim."])
    expect(card(page, "unlearned").locator(".under .figures").first).to_have_text(
        "key fact 0.018 per token · −3.8 nats beside retain"
    )
    page.press("body", "c")
    page.press("body", "c")
    assert page.locator("#colour input:checked").get_attribute("value") == "gain"
    assert alpha(fact) == pytest.approx(3.75 / 5, abs=0.01)
    expect(fact).to_have_class(re.compile("gain-lost"))
    page.press("body", "c")
    assert alpha(fact) == 1
    assert alpha(card(page, "original").locator("[data-kind=truth] .token.key")) == 0
    fact.focus()
    expect(page.locator("#inspector")).to_contain_text("rank500, reference 2beside the reference−3.8 natskey factyes")
    shot(page, "changed")


def test_several_turns_and_the_prompt_to_the_letter(site: Site, page: Any, browser: Any) -> None:
    visit(page, site)
    page.locator("#more summary").click()
    page.fill("#system", "Be brief.")
    ask(page, 3)
    card(page, "retain").locator("button", has_text="Prompt").click()
    expect(page.locator("#prompt-text")).to_have_text(f"<|system|>Be brief.\n<|user|>{QUESTION}<|assistant|>")
    expect(page.locator("#prompt-about")).to_have_text("retain, none, 9 tokens")
    page.keyboard.press("Escape")
    card(page, "retain").locator("button", has_text="Ask on").click()
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.type("And where is that?")
    page.click("#add-turn")
    page.keyboard.type("Hm.")
    page.locator("#turns button").last.click()
    page.click("#ask")
    expect(page.locator("#results-title")).to_have_text("And where is that?")
    said = (("system", "Be brief."), ("user", QUESTION), ("assistant", "Ilka Dornbach was born in Vienna, Austria."))
    prompt = site.backend.asked[-1][1]
    assert isinstance(prompt, Quiz)
    assert (prompt.history, prompt.question) == (said, "And where is that?")
    other = browser.new_context().new_page()
    other.goto(page.url)
    expect(other.locator("#turns textarea")).to_have_count(2)
    assert other.input_value("#system") == "Be brief."
    other.context.close()


def test_many_models_scroll_past_the_pinned_reference(open_site: Callable[..., Site], page: Any) -> None:
    names = ["original", "retain", "unlearned", "other", "another", "third"]
    site = open_site(models={name: {"source": "x"} for name in names})
    for name in names[3:]:
        site.backend.says[name] = SAYS["retain"]
    visit(page, site, "#q=Who%3F")
    expect(page.locator("#ask")).to_have_text("Ask 4 models")  # a link that names none has the usual ones
    for name in names[4:]:
        page.click(f"#models button[value={name}]")
    page.click("#ask")
    expect(page.locator("#status")).to_have_text("6 of 6 answers")
    row = page.locator(".cards.many")
    expect(row.locator(".card").first).to_contain_text("retain")
    before = card(page, "retain").bounding_box()["x"]
    row.focus()
    page.keyboard.press("End")
    row.evaluate("each => each.scrollTo(each.scrollWidth, 0)")
    assert row.evaluate("each => each.scrollLeft") > 100
    assert abs(card(page, "retain").bounding_box()["x"] - before) < 20
    shot(page, "many")


def test_a_deterministic_probe(site: Site, page: Any, browser: Any) -> None:
    visit(page, site)
    page.locator("#sampling summary").click()
    page.check("#deterministic")
    ask(page, 3)
    assert all(sampling.alone for _, _, sampling in site.backend.asked)
    other = browser.new_context().new_page()
    other.goto(page.url)
    expect(other.locator("#ask")).to_have_text("Ask 3 models")
    assert other.is_checked("#deterministic")
    other.context.close()


def test_no_more_digits_than_the_dtype_has(open_site: Callable[..., Site], page: Any) -> None:
    visit(page, open_site(engine={"dtype": "float32"}))
    found = page.evaluate(
        """async () => {
          const {learn, nats, probability, signed} = await import('/numbers.js');
          learn([{id: 'half', digits: 2}, {id: 'full', digits: 4}]);
          return [nats(-1.23456, 'half'), nats(-1.23456, 'full'), nats(-123.4, 'half'), nats(null, 'half'),
            signed(0.5, 'full'), probability(0.7788, 'half'), probability(0.7788, 'full'), probability(0.9999, 'half'),
            probability(0.9999, 'full'), probability(1, 'half'), probability(0.00001234, 'full'), nats(-2.345, 'gone')];
        }"""
    )
    assert found == [
        "−1.2", "−1.235", "−120", "–", "+0.5", "0.78", "0.779", "> 0.99", "> 0.999", "1", "1.2e−5", "−2.3",
    ]  # fmt: skip
