"""What the routes share: the config, the names, the way to the models, and the books that are kept."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from obliviate_serve.audit import Journal
from obliviate_serve.backend import Backend
from obliviate_serve.engine import Event, Prompt, Sampling
from obliviate_serve.errors import ApiError
from obliviate_serve.metrics import Metrics
from obliviate_serve.names import Names, Target
from obliviate_serve.spec import ServeRun

AT_ONCE = 32  # prompts of one request at the models


@dataclass(frozen=True)
class Server:
    spec: ServeRun
    names: Names
    backend: Backend
    journal: Journal
    metrics: Metrics = field(default_factory=Metrics)

    def turns(self) -> asyncio.Semaphore:
        """For the prompts of one request, which would fill a model's queue by themselves if all came at once."""
        return asyncio.Semaphore(min(AT_ONCE, self.spec.limits.queued_requests))

    def check_size(self, size: int, product: str) -> None:
        """Of an answer, told before anything is done for it. Raises ApiError."""
        if size > (limit := self.spec.limits.answer_tokens):
            raise ApiError(
                400,
                f"{product} comes to {size}, more than {limit}; ask in several requests, or for less of each",
                code="answer_too_large",
            )

    def most_tokens(self, target: Target, prompt: str | Sequence[int]) -> int:
        """That a text or token ids may come to: no token is shorter than a byte, and no prompt longer than allowed."""
        length = len(prompt.encode("utf-8", "surrogatepass")) + 1 if isinstance(prompt, str) else len(prompt)
        return min(length, self.spec.limits.prompt_tokens, self.room(target))

    def room(self, target: Target) -> int:
        """Tokens of prompt and answer together, at the most."""
        return self.spec.engine_of(target.name).max_model_len

    async def complete(self, target: Target, prompt: Prompt, sampling: Sampling) -> list[Event]:
        with self.metrics.answer(target.name) as answering:
            events = await self.backend.complete(target, prompt, sampling)
            for event in events:
                answering.saw(event)
            answering.first_s = None  # it came with all others
            return events

    async def stream(self, target: Target, prompt: Prompt, sampling: Sampling) -> AsyncIterator[Event]:
        with self.metrics.answer(target.name) as answering:
            async with aclosing(self.backend.stream(target, prompt, sampling)) as events:  # type: ignore[type-var]
                async for event in events:
                    answering.saw(event)
                    yield event
