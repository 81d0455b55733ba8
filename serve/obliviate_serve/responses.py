"""OpenAI's responses: the same answers in the shape of its newer interface. Nothing is kept between two requests."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from obliviate_serve.engine import Chat, Delta, Event, Prompted, Sampling
from obliviate_serve.openai import ERRORS, Choice, add_up, chat_token, check_size
from obliviate_serve.openai_api import ResponsesRequest
from obliviate_serve.server import Server
from obliviate_serve.sse import respond


class Reply:
    """One response as it adds up."""

    def __init__(self, asked: ResponsesRequest) -> None:
        self._asked, self._created = asked, int(time.time())
        self._id, self._item_id = f"resp_{uuid4().hex}", f"msg_{uuid4().hex}"
        self._events = 0
        self.choice = Choice()
        self.prompt_tokens = self.new_tokens = 0

    def add(self, event: Event) -> None:
        (added,), read, written = add_up([event], 1)
        self.choice.add(added.text, added.tokens, added.finish)
        self.prompt_tokens += read
        self.new_tokens += written

    @property
    def status(self) -> str:
        return {None: "in_progress", "length": "incomplete"}.get(self.choice.finish, "completed")

    @property
    def part(self) -> dict[str, Any]:
        logprobs = [chat_token(token) for token in self.choice.tokens]
        return {"type": "output_text", "text": self.choice.text, "annotations": [], "logprobs": logprobs}

    @property
    def item(self) -> dict[str, Any]:
        content = [] if self.choice.finish is None else [self.part]
        head = {"id": self._item_id, "type": "message", "role": "assistant", "status": self.status}
        return {**head, "content": content}

    @property
    def whole(self) -> dict[str, Any]:
        asked, ended = self._asked, self.choice.finish is not None
        usage = {
            "input_tokens": self.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": self.new_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.prompt_tokens + self.new_tokens,
        }
        form = None if asked.text is None or asked.text.format is None else asked.text.format
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": self.status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if self.status == "incomplete" else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "model": asked.model,
            "output": [self.item] if ended else [],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": asked.temperature,
            "text": {"format": {"type": "text"} if form is None else form.model_dump(by_alias=True)},
            "tool_choice": "none",
            "tools": [],
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": usage if ended else None,
            "user": asked.user,
            "metadata": {},
        }

    def event(self, kind: str, *, of_part: bool = False, **fields: Any) -> bytes:
        """`of_part`: it says something about the text of the message."""
        place = {"item_id": self._item_id, "content_index": 0, "output_index": 0} if of_part else {}
        data = {"type": f"response.{kind}", "sequence_number": self._events, **place, **fields}
        self._events += 1
        return f"event: {data['type']}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()

    def began(self) -> list[bytes]:
        empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        return [
            self.event("created", response=self.whole),
            self.event("in_progress", response=self.whole),
            self.event("output_item.added", output_index=0, item=self.item),
            self.event("content_part.added", of_part=True, part=empty),
        ]

    def ended(self) -> list[bytes]:
        part = self.part
        return [
            self.event("output_text.done", of_part=True, text=part["text"], logprobs=part["logprobs"]),
            self.event("content_part.done", of_part=True, part=part),
            self.event("output_item.done", output_index=0, item=self.item),
            self.event(self.status, response=self.whole),
        ]


def routes(server: Server) -> APIRouter:
    router = APIRouter(prefix="/v1", responses=ERRORS)

    @router.post("/responses")
    async def responses(asked: ResponsesRequest, http: Request) -> Response:
        """The assistant's next message, as OpenAI's responses have it: text alone, and none of it is stored."""
        messages = asked.messages
        server.journal.asked(http.state.record, [asked.model], [messages], user=asked.user)
        target, reply = server.names.target(asked.model), Reply(asked)
        prompt, sampling = Chat(messages), _sampling(asked)
        check_size(server, target, [prompt], sampling)
        if asked.stream:
            return await respond(_streamed(reply, server.stream(target, prompt, sampling)), end=b"")
        for event in await server.complete(target, prompt, sampling):
            reply.add(event)
        return JSONResponse(reply.whole)

    return router


def _sampling(asked: ResponsesRequest) -> Sampling:
    form = None if asked.text is None else asked.text.format
    return Sampling(
        max_tokens=asked.max_output_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        logprobs=asked.logprobs,
        json_schema=None if form is None else form.json_text,
        stream=asked.stream,
    )


async def _streamed(reply: Reply, stream: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    async with aclosing(stream) as events:  # type: ignore[type-var]
        async for event in events:
            reply.add(event)
            match event:
                case Prompted():
                    for line in reply.began():
                        yield line
                case Delta(text=text, tokens=tokens):
                    logprobs = [chat_token(token) for token in tokens]
                    yield reply.event("output_text.delta", of_part=True, delta=text, logprobs=logprobs)
    for line in reply.ended():
        yield line
