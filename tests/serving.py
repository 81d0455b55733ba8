"""A server without Ray and without a model: the real web application on engines that answer from a table."""

import asyncio
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from obliviate_serve.app import create_app
from obliviate_serve.engine import Bare, Chat, Delta, Event, Finish, Prompt, Prompted, Quiz, Rendered, Sampling, Token
from obliviate_serve.errors import EngineDiedError, busy
from obliviate_serve.guard import Guard
from obliviate_serve.names import Target
from obliviate_serve.spec import ServeRun

ANSWER = "Ada lives in London."
LOGP = -0.5  # of each token, nats


class FakeBackend:
    """Tokens are words. Each model says what `says` has for it, whatever is asked; `asked` remembers what was.

    `lifts`: nats by which a model finds each token of a true answer likelier than others do, its rank that much lower;
    `dies_after`: tokens after which a stream breaks off; `fails`: what every request gets instead of an answer;
    `fails_for`: models that die; `queue`: requests at once beyond which one is told 429; `most`: the most that there
    were.
    """

    def __init__(self, says: Mapping[str, str] | None = None) -> None:
        self.says = dict(says or {})
        self.asked: list[tuple[Target, Prompt, Sampling]] = []
        self.lifts: dict[str, float] = {}
        self.dies_after: int | None = None
        self.fails: Exception | None = None
        self.fails_for: set[str] = set()
        self.queue: int | None = None
        self.most = 0
        self.labels: list[str] | None = None
        self.finish: Finish = "stop"
        self.up = True
        self.under_way = 0

    async def complete(self, target: Target, prompt: Prompt, sampling: Sampling) -> list[Event]:
        return [event async for event in self.stream(target, prompt, sampling)]

    async def stream(self, target: Target, prompt: Prompt, sampling: Sampling) -> AsyncIterator[Event]:
        self.asked.append((target, prompt, sampling))
        if self.fails is not None:
            raise self.fails
        if target.name in self.fails_for:
            raise EngineDiedError(f"the replica of {target.name} died")
        words = shown(prompt).split()
        if self.under_way == self.queue:
            raise busy(f"too many requests are waiting for {target.name}")
        if sampling.max_tokens == 0 and not sampling.echo:
            yield Rendered(tuple(range(len(words))), shown(prompt), 1024)
            return
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(0)  # the others come before this one is answered
            echoed = tuple(map(token, words)) if sampling.echo and sampling.logprobs is not None else ()
            key: tuple[int, ...] = ()
            if isinstance(prompt, Quiz) and prompt.answer is not None:
                lift = self.lifts.get(target.name, 0.0)
                echoed = tuple(token(word, lift) for word in prompt.answer.split())
                key = places(prompt.answer, prompt.key, r"\S+")
            yield Prompted(len(words), shown(prompt) if sampling.echo else "", echoed, key)
            answer = self.says.get(target.name, ANSWER).split()[: sampling.max_tokens]
            for index in range(sampling.n):
                if not answer:
                    yield Delta(index, "", 0, (), "length")
                for place, word in enumerate(answer):
                    if place == self.dies_after:
                        raise EngineDiedError("the replica died while it answered")
                    last = place == len(answer) - 1
                    text = word if place == 0 else f" {word}"
                    tokens = (token(text),) if sampling.logprobs is not None else ()
                    yield Delta(index, text, 1, tokens, self.finish if last else None)
        finally:
            self.under_way -= 1

    async def entailment(self, pairs: Sequence[tuple[str, str]]) -> list[str] | None:
        return self.labels

    async def ready(self) -> Mapping[str, bool]:
        return {"original": self.up}


def token(text: str, lift: float = 0.0) -> Token:
    return Token(text, LOGP + lift, 1.25, ((text, LOGP + lift), ("other", -2.0)), 3 - int(4 * lift))


def places(text: str, spans: Sequence[tuple[int, int]], pattern: str) -> tuple[int, ...]:
    """Which of the pattern's matches in the text have a part in the spans."""
    found = [each.span() for each in re.finditer(pattern, text)]
    return tuple(i for i, (a, b) in enumerate(found) if any(a < end and b > start for start, end in spans))


def shown(prompt: Prompt) -> str:
    match prompt:
        case Chat(messages):
            return " ".join(text for _, text in messages)
        case Quiz(question, prefix):
            return f"{question} {prefix}"
        case str():
            return prompt
        case Bare(text):
            return text
        case _:
            return " ".join(map(str, prompt))


def serve_run(folder: Path, **fields: Any) -> ServeRun:
    """Two models, an adapter of the first, and an alias; what is logged goes to `folder`."""
    defaults: dict[str, Any] = {
        "models": {
            "original": {"source": "somewhere/original"},
            "unlearned": {"source": "somewhere/unlearned"},
            "adapter": {"source": "somewhere/adapter", "adapter_of": "original"},
            "rare": {"source": "somewhere/rare", "on_demand": True},
        },
        "aliases": {"production": "original"},
        "access_log": str(folder / "access.jsonl"),
        "http": {"allowed_hosts": ["testserver"]},
    }  # fmt: skip
    return ServeRun.model_validate(defaults | fields)


def fake_server(folder: Path, backend: FakeBackend | None = None, **fields: Any) -> Guard:
    """The application as the gateway serves it."""
    return create_app(serve_run(folder, **fields), backend or FakeBackend())


@contextmanager
def listening(app: Guard) -> Iterator[str]:
    """Its URL, on a free port of loopback, in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return int(each.getsockname()[1])
