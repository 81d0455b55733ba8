"""A real Chromium at the probing page. Screenshots go to the folder that SCREENSHOTS names, where it names one."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from probing import Site

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 20_000  # until something that must happen has not happened


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium in PATH: apt-get install chromium")
    playwright.expect.set_options(timeout=PATIENCE_MS)
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_site(tmp_path: Path) -> "Iterator[Callable[..., Site]]":
    from probing import Site

    sites: list[Site] = []

    def open_site(**fields: Any) -> "Site":
        sites.append(Site(tmp_path, **fields))
        return sites[-1]

    yield open_site
    for site in sites:
        site.stop()


@pytest.fixture
def site(open_site: "Callable[..., Site]") -> "Site":
    return open_site()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A tab that fails its test for any script error, breach of the content security policy, or foreign address."""
    context = browser.new_context(viewport={"width": 1360, "height": 900}, locale="en-GB", accept_downloads=True)
    context.set_default_timeout(PATIENCE_MS)
    tab = context.new_page()
    complaints: list[str] = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("console", lambda line: complaints.append(line.text) if "Security Policy" in line.text else None)
    tab.on("request", lambda asked: None if _is_own(asked.url) else complaints.append(asked.url))
    yield tab
    context.close()
    assert not complaints


def _is_own(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:", "file:"))


def visit(page: Any, site: "Site", hash_: str = "") -> None:
    page.goto(site.url + hash_)
    page.wait_for_selector("#ask")


def ask(page: Any, answers: int, *attacks: str) -> None:
    """All resident models about the painter, until every answer has come."""
    from probing import QUESTION, TRUTH

    page.fill("#question", QUESTION)
    page.fill("#answer", TRUTH)
    for attack in attacks:
        page.click(f"#attacks button[value={attack}]")
    page.click("#ask")
    page.wait_for_selector(f"#status:text-is('{answers} of {answers} answers')")


def card(page: Any, model: str, attack: int = 0) -> Any:
    section = page.locator("section.attack").nth(attack)
    return section.locator(".card").filter(has=page.locator("h4", has_text=re.compile(f"^{model}")))


def token(page: Any, model: str, text: str) -> Any:
    return card(page, model).locator(".tokens[data-kind=greedy] .token", has_text=text)


def shot(page: Any, name: str) -> None:
    folder = os.environ.get("SCREENSHOTS")
    if folder is not None:
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
