"""Servers that tests ask: a hosted model that answers from a rule, in every dialect, and keeps what it was asked."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from obliviate.schema import HostedSpec

KEY = "sk-very-secret"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
SAID = " London."
S = TypeVar("S", bound="Stub")


class Stub:
    """A server on loopback that answers by `answer`, on many threads."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with stub.lock:
                    stub.keys.add(self.headers["Authorization"])
                status, found = stub.answer(self.path, body)
                text = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                """Tests read what tests print."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and reply."""
        raise AssertionError(path)


class Hosted(Stub):
    """A model whose token i is as likely as -i/100 nats, and the likeliest where i is even. It says SAID.

    `refuses` gets each request and returns a status, or None; `scores`: by "echo", "vllm" or not at all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.routes, self.scores = {COMPLETIONS}, "echo"
        self.refuses: Any = lambda path, body: None
        self.most = 128  # choices of a request
        self.counts = True  # whether it tells the tokens

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            self.asked.append((path, body))
            status = self.refuses(path, body) if path in self.routes else 404
        return (status, {"error": {"message": f"no: {KEY}"}}) if status else (200, self.completion(path, body))

    def completion(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if body.get("max_tokens") == 3 else "stop"}
        if path == CHAT:
            choice["message"] = {"role": "assistant", "content": SAID}
        else:
            choice |= {"text": SAID, "logprobs": None}
        if body.get("echo") and self.scores == "echo":
            own = [None, *(-token / 100 for token in body["prompt"][1:])]
            likely = [
                None,
                *({"own": -t / 100, "other": -t / 100 - (1 if t % 2 == 0 else -1)} for t in body["prompt"][1:]),
            ]
            choice["logprobs"] = {"tokens": [], "token_logprobs": own, "top_logprobs": likely, "text_offset": []}
        if body.get("prompt_logprobs") and self.scores == "vllm":
            choice["prompt_logprobs"] = [
                None,
                *(
                    {str(t): {"logprob": -t / 100}, "9999": {"logprob": -t / 100 - (1 if t % 2 == 0 else -1)}}
                    for t in body["prompt"][1:]
                ),
            ]
        found = {
            "id": "1",
            "object": "",
            "created": 0,
            "model": body["model"],
            "choices": [choice] * min(self.most, body.get("n", 1)),
        }
        return {
            **found,
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110} if self.counts else None,
        }

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, body in self.asked]


@contextmanager
def running(stub: S) -> Iterator[S]:
    thread = threading.Thread(target=stub.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.server.shutdown()
        stub.server.server_close()
        thread.join()


@contextmanager
def hosting() -> Iterator[Hosted]:
    with running(Hosted()) as found:
        yield found


def spec_of(hosted: Hosted, **keys: Any) -> HostedSpec:
    return HostedSpec.model_validate({"base_url": hosted.url, "model": "hosted", "retries": 2, "concurrency": 1} | keys)
