"""Server-sent events: one `data:` line each. A stream that has begun can only tell of an error inside itself."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from obliviate_serve.api import ErrorBody
from obliviate_serve.errors import ApiError, EngineDiedError

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"


def line(value: Any) -> bytes:
    """In ASCII: some clients, like httpx's `iter_lines`, would end a line at U+2028 and its like, too."""
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n".encode()


def error_body(error: ApiError | EngineDiedError) -> ErrorBody:
    if isinstance(error, ApiError):
        return error.body
    return ErrorBody(message=str(error), type="server_error", code="replica_died")


class EventStream(StreamingResponse):
    """Watches nobody: the guard ends a request whose client is gone."""

    media_type = "text/event-stream"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.stream_response(send)


async def respond(lines: AsyncIterator[bytes], end: bytes = DONE) -> EventStream:
    """Headers go out with the first line, so that what goes wrong before it still has a status of its own.

    An error after that is the stream's last line, `data: {"error": ...}`, without `end` behind it.
    """
    first = await anext(lines)

    async def rest() -> AsyncIterator[bytes]:
        async with aclosing(lines):  # type: ignore[type-var]
            yield first
            try:
                async for each in lines:
                    yield each
            except (ApiError, EngineDiedError) as error:
                yield line({"error": error_body(error).model_dump()})
                return
            yield end

    return EventStream(rest(), headers={"x-accel-buffering": "no"})


async def merged(streams: Sequence[AsyncIterator[T]]) -> AsyncIterator[tuple[int, T]]:
    """What any of the streams gives, with the stream's place. The first error ends all of them."""
    if len(streams) == 1:  # no task and no queue for the usual case
        async with aclosing(streams[0]) as only:  # type: ignore[type-var]
            async for each in only:
                yield 0, each
        return
    queue: asyncio.Queue[tuple[int, T] | BaseException | None] = asyncio.Queue(maxsize=len(streams))

    async def pump(place: int, stream: AsyncIterator[T]) -> None:
        try:
            async with aclosing(stream):  # type: ignore[type-var]
                async for each in stream:
                    await queue.put((place, each))
        # Whatever it is: raised in here it would end this task alone, and whoever reads the queue would wait for ever.
        except Exception as error:
            await queue.put(error)
        else:
            await queue.put(None)

    tasks = [asyncio.create_task(pump(place, stream)) for place, stream in enumerate(streams)]
    try:
        left = len(tasks)
        while left:
            found = await queue.get()
            if isinstance(found, BaseException):
                raise found
            if found is None:
                left -= 1
            else:
                yield found
    finally:
        await cancelled(tasks)


async def cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Returns when all of them have come to their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Their results, in order. The first error ends all of them."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await cancelled(tasks)
