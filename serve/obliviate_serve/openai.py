"""OpenAI's completions and chat: their requests as prompts and sampling, our events as their responses."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import Response

from obliviate_serve.api import ErrorResponse, ModelList, ServedModel
from obliviate_serve.engine import Chat, Delta, Event, Prompt, Prompted, Sampling, Token
from obliviate_serve.names import Target
from obliviate_serve.openai_api import ChatRequest, CompletionRequest, Talk
from obliviate_serve.server import Server
from obliviate_serve.sse import line, merged, respond, together
from obliviate_serve.whole import compact, whole

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 401, 403, 404, 408, 413, 415, 421, 429, 500, 503)
}


@dataclass
class Choice:
    """A continuation as it adds up."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: str | None = None

    def add(self, text: str, tokens: Iterable[Token], finish: str | None) -> None:
        self.text += text
        self.tokens += tokens
        self.finish = finish or self.finish


class Format:
    """How one of the two interfaces writes its answers. `name`, `object`: OpenAI's."""

    name: str
    object: str
    chunk_object: str

    def __init__(self, model: str, logprobs: bool) -> None:
        self._logprobs = logprobs
        self._head = {"id": f"{self.name}-{uuid4().hex}", "created": int(time.time()), "model": model}

    async def whole(self, choices: Sequence[Choice], usage: dict[str, int]) -> Response:
        written = (compact(self._choice(i, each, each.finish, chunk=False)) for i, each in enumerate(choices))
        return await whole({**self._head, "object": self.object, "usage": usage}, "choices", written)

    def chunk(self, index: int, piece: Choice) -> dict[str, Any]:
        choice = self._choice(index, piece, piece.finish, chunk=True)
        return {**self._head, "object": self.chunk_object, "choices": [choice]}

    def usage(self, usage: dict[str, int]) -> dict[str, Any]:
        return {**self._head, "object": self.chunk_object, "choices": [], "usage": usage}

    def opening(self, index: int) -> list[dict[str, Any]]:
        """Chunks before a continuation's first text."""
        return []

    def _choice(self, index: int, piece: Choice, finish: str | None, *, chunk: bool) -> dict[str, Any]:
        raise NotImplementedError


class CompletionFormat(Format):
    name, object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(self, model: str, logprobs: bool) -> None:
        super().__init__(model, logprobs)
        self._offsets: dict[int, int] = {}

    def _choice(self, index: int, piece: Choice, finish: str | None, *, chunk: bool) -> dict[str, Any]:
        logprobs = self._logprobs_of(index, piece.tokens) if self._logprobs else None
        return {"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs_of(self, index: int, tokens: Sequence[Token]) -> dict[str, Any]:
        offset, offsets = self._offsets.get(index, 0), []
        for token in tokens:
            offsets.append(offset)
            offset += len(token.text)
        self._offsets[index] = offset
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logp for token in tokens],
            "top_logprobs": [_likely(token) for token in tokens],
            "text_offset": offsets,
        }


class ChatFormat(Format):
    name, object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self, index: int) -> list[dict[str, Any]]:
        choice = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        return [{**self._head, "object": self.chunk_object, "choices": [choice]}]

    def _choice(self, index: int, piece: Choice, finish: str | None, *, chunk: bool) -> dict[str, Any]:
        logprobs = {"content": [chat_token(token) for token in piece.tokens]} if self._logprobs else None
        said: dict[str, Any]
        if chunk:
            said = {"delta": {"content": piece.text} if piece.text or not finish else {}}
        else:
            said = {"message": {"role": "assistant", "content": piece.text, "refusal": None}}
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": finish}


def routes(server: Server) -> APIRouter:
    router = APIRouter(prefix="/v1", responses=ERRORS)

    @router.get("/models", response_model=ModelList)
    async def models() -> ModelList:
        return server.names.listing()

    @router.get("/models/{id_}", response_model=ServedModel)
    async def model(id_: str) -> ServedModel:
        return server.names.entry(id_)

    @router.post("/completions")
    async def completions(asked: CompletionRequest, http: Request) -> Response:
        """Continuations of one or more prompts, given as texts or token ids."""
        sampling = _sampling(asked, asked.max_tokens, asked.logprobs, asked.echo)
        form = CompletionFormat(asked.model, asked.logprobs is not None)
        server.journal.asked(http.state.record, [asked.model], asked.prompts, user=asked.user)
        return await _answer(server, asked, asked.prompts, sampling, form)

    @router.post("/chat/completions")
    async def chat_completions(asked: ChatRequest, http: Request) -> Response:
        """The assistant's next message."""
        limit = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
        sampling = _sampling(asked, limit, asked.top_logprobs or 0 if asked.logprobs else None, echo=False)
        if asked.response_format is not None:
            sampling = replace(sampling, json_schema=asked.response_format.json_text)
        prompt = chat(asked)
        texts = [prompt.messages, *filter(None, [prompt.names])]
        server.journal.asked(http.state.record, [asked.model], texts, user=asked.user)
        return await _answer(server, asked, [prompt], sampling, ChatFormat(asked.model, asked.logprobs))

    return router


def chat(asked: Talk) -> Chat:
    messages = tuple((message.role, message.text) for message in asked.messages)
    named = any(message.name for message in asked.messages)
    names = tuple(message.name for message in asked.messages) if named else ()
    return Chat(messages, names, asked.continue_final_message)


def _sampling(
    asked: CompletionRequest | ChatRequest, max_tokens: int | None, logprobs: int | None, echo: bool
) -> Sampling:
    return Sampling(
        max_tokens=max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        n=asked.n,
        seed=asked.seed,
        stop=asked.stops,
        ignore_eos=asked.ignore_eos,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        logit_bias=asked.biases,
        logprobs=logprobs,
        echo=echo,
        stream=asked.stream,
    )


async def _answer(
    server: Server, asked: CompletionRequest | ChatRequest, prompts: Sequence[Prompt], sampling: Sampling, form: Format
) -> Response:
    target, turns = server.names.target(asked.model), server.turns()
    check_size(server, target, prompts, sampling)
    if asked.stream:
        streams = [_streamed(server, target, prompt, sampling, turns) for prompt in prompts]
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        return await respond(_chunks(streams, sampling, form, usage))
    choices, prompt_tokens, new_tokens = [], 0, 0
    for events in await together(_completed(server, target, prompt, sampling, turns) for prompt in prompts):
        added, read, written = add_up(events, sampling.n)
        choices += added
        prompt_tokens += read
        new_tokens += written
    return await form.whole(choices, _usage(prompt_tokens, new_tokens))


def check_size(server: Server, target: Target, prompts: Sequence[Prompt], sampling: Sampling) -> None:
    room = min(server.spec.limits.new_tokens, server.room(target))
    new = len(prompts) * (room if sampling.max_tokens is None else sampling.max_tokens)
    texts = [prompt for prompt in prompts if isinstance(prompt, str | tuple)] if sampling.echo else []
    echoed = sum(server.most_tokens(target, text) for text in texts)
    size = sampling.n * (new + echoed) * ((sampling.logprobs or 0) + 1)
    server.check_size(size, "n x (max_tokens of each prompt + echoed bytes or tokens) x (logprobs + 1)")


async def _completed(
    server: Server, target: Target, prompt: Prompt, sampling: Sampling, turns: asyncio.Semaphore
) -> list[Event]:
    async with turns:
        return await server.complete(target, prompt, sampling)


async def _streamed(
    server: Server, target: Target, prompt: Prompt, sampling: Sampling, turns: asyncio.Semaphore
) -> AsyncIterator[Event]:
    async with turns, aclosing(server.stream(target, prompt, sampling)) as events:  # type: ignore[type-var]
        async for event in events:
            yield event


def add_up(events: Sequence[Event], n: int) -> tuple[list[Choice], int, int]:
    """One prompt's continuations, its tokens, and theirs."""
    choices = [Choice() for _ in range(n)]
    prompt_tokens = new_tokens = 0
    for event in events:
        match event:
            case Prompted(read, text, tokens):
                prompt_tokens += read
                for choice in choices:
                    choice.add(text, tokens, None)
            case Delta(choice, text, written, tokens, finish):
                new_tokens += written
                choices[choice].add(text, tokens, finish)
    return choices, prompt_tokens, new_tokens


async def _chunks(
    streams: Sequence[AsyncIterator[Event]], sampling: Sampling, form: Format, usage: bool
) -> AsyncIterator[bytes]:
    prompt_tokens = new_tokens = 0
    async for place, event in merged(streams):
        first = place * sampling.n
        match event:
            case Prompted(read, text, tokens):
                prompt_tokens += read
                for index in range(first, first + sampling.n):
                    for opening in form.opening(index):
                        yield line(opening)
                    if text:
                        yield line(form.chunk(index, Choice(text, list(tokens))))
                        await asyncio.sleep(0)  # an echo is long, and here it comes n times
            case Delta(choice, text, written, tokens, finish):
                new_tokens += written
                # Even without text (a part of a character): a stream that has begun says so to the client.
                yield line(form.chunk(first + choice, Choice(text, list(tokens), finish)))
    if usage:
        yield line(form.usage(_usage(prompt_tokens, new_tokens)))


def _usage(prompt_tokens: int, new_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new_tokens,
        "total_tokens": prompt_tokens + new_tokens,
    }


def _likely(token: Token) -> dict[str, float] | None:
    """Text -> log-probability, of the most likely tokens and of the token itself; None for a prompt's first."""
    if token.logp is None:
        return None
    found: dict[str, float] = {}
    for text, logp in token.alternatives:
        found.setdefault(text, logp)  # parts of a character look alike; the likelier one is shown
    found.setdefault(token.text, token.logp)
    return found


def chat_token(token: Token) -> dict[str, Any]:
    return {
        **_written(token.text, token.logp),
        "top_logprobs": [_written(text, logp) for text, logp in token.alternatives],
    }


def _written(text: str, logp: float | None) -> dict[str, Any]:
    whole = "\ufffd" not in text  # of a part of a character the bytes are not known
    return {"token": text, "logprob": logp, "bytes": list(text.encode()) if whole else None}
