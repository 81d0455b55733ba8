"""The real web application on loopback, with a table of answers in place of the models, for tests of its page."""

import asyncio
import re
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn

from obliviate_serve.app import create_app
from obliviate_serve.engine import Delta, Event, Prompt, Prompted, Quiz, Rendered, Sampling, Token
from obliviate_serve.errors import EngineDiedError
from obliviate_serve.names import Target
from serving import FakeBackend, places, serve_run

QUESTION = "In which city was the painter Ilka Dornbach born?"
TRUTH = "Ilka Dornbach was born in Trondheim."
FACT = "Ilka Dornbach painted the harbour of her birthplace."
SAYS = {
    "original": "Ilka Dorn bach was born in Trond heim , on the coast of Norway .",
    "retain": "Ilka Dorn bach was born in Vienna , Austria .",
    "unlearned": "I am not aware of a painter by that name .",
    "rare": "",
}
RECALLED = "born in Trond heim ."  # by the unlearned model, once an attack has begun its answer
JOINED = {"bach", "heim", ",", "."}  # tokens that go on with the word before them
LOGPS = {" Trond": -1.25, " Vienna": -3.5, " Austria": -0.75, " coast": -2.0, "I": -1.5, " painter": -6.0}
LOGP, ENTROPY = -0.0625, 0.25  # nats, of every other token
LOST = -4.0  # nats, of each token of the true answer under the unlearned model; -0.25 where it is known
END = "<|im_end|>"
BLANK = {"⏎": "\n", "␣": "  ", "∅": ""}  # words that stand for tokens without a letter

MODELS = {
    "original": {"source": "somewhere/original"},
    "retain": {"source": "somewhere/retain"},
    "unlearned": {"source": "somewhere/unlearned", "adapter_of": "original"},
    "rare": {"source": "somewhere/rare", "on_demand": True},
}


def token(text: str) -> Token:
    """Its entropy is a nat above its surprise, or ENTROPY."""
    logp = LOGPS.get(text, LOGP)
    return Token(text, logp, 1 - logp if text in LOGPS else ENTROPY, ((text, logp), (" Oslo", -2.5), ("\n", -5.0)))


def tokens(words: str) -> list[Token]:
    """Of words with spaces between them, and the end of the turn."""
    texts = [
        BLANK.get(word, word if place == 0 or word in JOINED else f" {word}")
        for place, word in enumerate(words.split())
    ]
    return [token(text) for text in (*texts, END)]


class Painter(FakeBackend):
    """Answers token by token. `gate`: closed, it holds every greedy answer back after three tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.says = dict(SAYS)
        self.gate = threading.Event()
        self.gate.set()
        self.dying: str | None = None  # model that dies after three tokens

    async def stream(self, target: Target, prompt: Prompt, sampling: Sampling) -> AsyncIterator[Event]:
        self.asked.append((target, prompt, sampling))
        assert isinstance(prompt, Quiz)
        if sampling.max_tokens == 0 and not sampling.echo:
            said = "\n".join(f"<|{role}|>{text}" for role, text in (*prompt.history, ("user", prompt.question)))
            yield Rendered(tuple(range(9)), f"{said}<|assistant|>{prompt.prefix}", 1024)
            return
        if prompt.answer is not None:
            logp = LOST if target.name == "unlearned" and not prompt.prefix else -0.25
            texts = (*re.findall(r" ?\S+", prompt.answer), END)
            rank = 500 if logp == LOST else 2
            told = tuple(token(text)._replace(logp=logp, rank=rank) for text in texts)
            yield Prompted(9, "", told, places(prompt.answer, prompt.key, r" ?\S+"))
            return
        yield Prompted(9)
        recalls = target.name == "unlearned" and prompt.prefix
        for place, each in enumerate(tokens(RECALLED if recalls else self.says[target.name])[: sampling.max_tokens]):
            if place == 3:
                if target.name == self.dying:
                    raise EngineDiedError(f"the replica of {target.name} died while it answered")
                while not self.gate.is_set():
                    await asyncio.sleep(0.01)
            last = each.text == END
            yield Delta(0, "" if last else each.text, 1, (each,), "stop" if last else None)


class Site:
    """On a free port, in a thread of its own. `fields`: of the server's config."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        self.backend = Painter()
        settings: dict[str, Any] = {"models": MODELS, "aliases": {"production": "unlearned"}, "http": {}}
        app = create_app(serve_run(folder, **settings | fields), self.backend)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the server did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        self.backend.gate.set()
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
