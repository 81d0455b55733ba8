"""What Prometheus reads of this server: latency by model, tokens, and how much is waiting. Times in seconds."""

import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from obliviate_serve.engine import Delta, Event, Prompted

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Labels are names of routes and of models of the config, never texts of a client's."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "obliviate_http_requests", "HTTP requests", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "obliviate_answer_seconds", "Whole answer of a model", ["model"], buckets=SECONDS, registry=self._registry
        )
        self._first_token = Histogram(
            "obliviate_first_token_seconds",
            "Until a streamed answer's first token",
            ["model"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._speed = Histogram(
            "obliviate_tokens_per_second",
            "Generated tokens a second of one answer",
            ["model"],
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
            registry=self._registry,
        )
        self._tokens = Counter(
            "obliviate_tokens", "Tokens read and generated", ["model", "kind"], registry=self._registry
        )
        self._waiting = Gauge(
            "obliviate_queue_length", "Requests whose answer has not begun", ["model"], registry=self._registry
        )
        self._under_way = Gauge(
            "obliviate_requests_under_way", "Requests a model is working on", ["model"], registry=self._registry
        )

    def request(self, scope: MutableMapping[str, Any], record: dict[str, Any]) -> None:
        """`route` is the path's pattern: an unknown path is "none"."""
        route = getattr(scope.get("route"), "path", "none")
        self._requests.labels(route, record.get("status", 0)).inc()

    @contextmanager
    def answer(self, model: str) -> "Iterator[Answering]":
        answering = Answering(self._tokens, self._waiting.labels(model), model)
        self._under_way.labels(model).inc()
        answering.waiting.inc()
        try:
            yield answering
        finally:
            answering.begin()
            self._under_way.labels(model).dec()
            seconds = time.perf_counter() - answering.began_s
            self._seconds.labels(model).observe(seconds)
            if answering.first_s is not None:
                self._first_token.labels(model).observe(answering.first_s)
            if answering.new_tokens:
                self._speed.labels(model).observe(answering.new_tokens / seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class Answering:
    """One answer under way."""

    def __init__(self, tokens: Counter, waiting: Gauge, model: str) -> None:
        self._tokens, self.waiting, self._model = tokens, waiting, model
        self.began_s = time.perf_counter()
        self.first_s: float | None = None
        self.prompt_tokens = self.new_tokens = 0
        self._began = False

    def begin(self) -> None:
        """It no longer waits."""
        if not self._began:
            self._began = True
            self.waiting.dec()

    def saw(self, event: Event) -> None:
        self.begin()
        match event:
            case Prompted(prompt_tokens=tokens):
                self.prompt_tokens += tokens
                self._tokens.labels(self._model, "prompt").inc(tokens)
            case Delta(new_tokens=tokens):
                if self.first_s is None:
                    self.first_s = time.perf_counter() - self.began_s
                self.new_tokens += tokens
                self._tokens.labels(self._model, "generated").inc(tokens)
