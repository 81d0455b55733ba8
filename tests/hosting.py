"""A hosted model as tests need it: a server that answers from a rule, in every dialect, and keeps what it was asked."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from obliviate.schema import HostedSpec

KEY = "sk-very-secret"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
SAID = " London."


class Hosted:
    """A model whose token i is as likely as -i/100 nats, and the likeliest where i is even. It says SAID.

    `refuses` gets each request and returns a status, or None; `scores`: by "echo", "vllm" or not at all.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.keys: set[str] = set()
        self.routes, self.scores = {COMPLETIONS}, "echo"
        self.refuses: Any = lambda path, body: None
        self.most = 128  # choices of a request
        self.counts = True  # whether it tells the tokens
        self.lock = threading.Lock()
        hosted = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hosted.answer(self)

            def log_message(self, *_: Any) -> None:
                """Tests read what tests print."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.asked.append((handler.path, body))
            self.keys.add(handler.headers["Authorization"])
            status = self.refuses(handler.path, body) if handler.path in self.routes else 404
        found = {"error": {"message": f"no: {KEY}"}} if status else self.completion(handler.path, body)
        text = json.dumps(found).encode()
        handler.send_response(status or 200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(text)))
        handler.send_header("retry-after-ms", "1")
        handler.end_headers()
        handler.wfile.write(text)

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
def hosting() -> Iterator[Hosted]:
    found = Hosted()
    thread = threading.Thread(target=found.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.server.shutdown()
        found.server.server_close()
        thread.join()


def spec_of(hosted: Hosted, **keys: Any) -> HostedSpec:
    return HostedSpec.model_validate({"base_url": hosted.url, "model": "hosted", "retries": 2, "concurrency": 1} | keys)
