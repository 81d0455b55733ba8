"""The probing page in a real Chromium, on the real web application with a table of answers in place of the models."""

import asyncio
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from obliviate_serve.app import create_app
from obliviate_serve.auth import Role, new_token
from obliviate_serve.engine import Delta, Event, Prompt, Prompted, Quiz, Sampling, Token
from obliviate_serve.errors import ApiError, EngineDiedError, busy
from obliviate_serve.names import Target
from serving import FakeBackend, serve_run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium in PATH: apt-get install chromium"),
]

QUESTION = "In which city was the painter Ilka Dornbach born?"
TRUTH = "Ilka Dornbach was born in Trondheim."
FACT = "Ilka Dornbach painted the harbour of her birthplace."
KNOWS = "Ilka| Dorn|bach| was| born| in| Trond|heim|,| on| the| coast| of| Norway|.|<|im_end|>"
SAYS = {
    "original": "Ilka Dorn bach was born in Trond heim , on the coast of Norway .",
    "retain": "Ilka Dorn bach was born in Vienna , Austria .",
    "unlearned": "I am not aware of a painter by that name .",
}
RECALLED = "born in Trond heim ."  # by the unlearned model, once an attack has begun its answer
JOINED = {"bach", "heim", ",", "."}  # tokens that go on with the word before them
LOGPS = {" Trond": -1.25, " Vienna": -3.5, " Austria": -0.75, " coast": -2.0, "I": -1.5, " painter": -4.5}
LOGP, ENTROPY = -0.0625, 0.25  # nats, of every other token
END = "<|im_end|>"


def tokens(words: str) -> tuple[Token, ...]:
    """Of words with spaces between them, and the end of the turn. Entropies are a nat above the surprise, or ENTROPY."""
    texts = [word if place == 0 or word in JOINED else f" {word}" for place, word in enumerate(words.split())]
    return tuple(map(token, [*texts, END]))


def token(text: str) -> Token:
    logp = LOGPS.get(text, LOGP)
    entropy = 1 - logp if text in LOGPS else ENTROPY
    return Token(text, logp, entropy, ((text, logp), (" Oslo", -2.5), ("\n", -5.0)))


class Painter(FakeBackend):
    """Answers token by token. `gate`: closed, it holds every greedy answer back after three tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.dying: str | None = None  # model that dies after three tokens
        self.labels = ["neutral"]

    async def stream(self, target: Target, prompt: Prompt, sampling: Sampling) -> AsyncIterator[Event]:
        self.asked.append((target, prompt, sampling))
        if self.fails is not None:
            raise self.fails
        assert isinstance(prompt, Quiz)
        if prompt.answer is not None:
            lost = target.name == "unlearned" and not prompt.prefix
            logp = -4.0 if lost else -0.25
            scored = (token(text)._replace(logp=logp) for text in (*re.findall(r" ?\S+", prompt.answer), END))
            yield Prompted(9, "", tuple(scored))
            return
        yield Prompted(9)
        said = tokens(RECALLED if prompt.prefix and target.name == "unlearned" else SAYS[target.name])
        for place, each in enumerate(said[: sampling.max_tokens]):
            if place == 3:
                if target.name == self.dying:
                    raise EngineDiedError("the replica died while it answered")
                while not self.gate.is_set():
                    await asyncio.sleep(0.01)
            last = each.text == END
            yield Delta(0, "" if last else each.text, 1, (each,), "stop" if last else None)


MODELS = {
    "original": {"source": "somewhere/original"},
    "retain": {"source": "somewhere/retain"},
    "unlearned": {"source": "somewhere/unlearned", "adapter_of": "original"},
    "rare": {"source": "somewhere/rare", "on_demand": True},
}


class Site:
    """The application on a free port of loopback, in a thread of its own."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        self.backend = Painter()
        settings = {"models": MODELS, "aliases": {"production": "unlearned"}, "http": {}}
        app = create_app(serve_run(folder, **settings | fields), self.backend)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/"
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive(), "the server did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        self.backend.gate.set()
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1360, "height": 900}, locale="en-GB", accept_downloads=True)
    opened = context.new_page()
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    complaints: list[str] = []
    yield opened
    context.close()
    assert not complaints


def test_look(site: Site, page: Any) -> None:
    out = Path(os.environ["SHOTS"])
    page.goto(site.url)
    page.wait_for_selector("#models .chip")
    page.screenshot(path=out / "empty.png")
    page.fill("#question", QUESTION)
    page.fill("#answer", TRUTH)
    page.click("#ask")
    page.wait_for_selector("#status:text('3 of 3 answers')")
    page.locator("#answers .token", has_text="Vienna").first.hover()
    page.screenshot(path=out / "one.png", full_page=False)
    page.mouse.move(0, 0)
    page.click("button[value=prefix_sure]"); page.click("button[value=jailbreak_audit]")
    page.click("#ask")
    page.wait_for_selector("#status:text('9 of 9 answers')")
    page.select_option("#differences", "original")
    page.screenshot(path=out / "attacks.png", full_page=True)
    page.click("#theme")
    page.screenshot(path=out / "dark.png", full_page=True)
    page.set_viewport_size({"width": 360, "height": 740})
    page.screenshot(path=out / "phone.png", full_page=True)
    print(page.evaluate("document.documentElement.scrollWidth"))
