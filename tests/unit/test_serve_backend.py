"""What the gateway does when a replica dies, refuses or stays away; the handles are fakes."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError

from obliviate_serve import backend as backend_module
from obliviate_serve.backend import ServeBackend
from obliviate_serve.engine import Delta, Event, Prompted, Sampling
from obliviate_serve.errors import ApiError, EngineDiedError
from obliviate_serve.names import Target

TARGET = Target("original", "original", None)
EVENTS: list[Event] = [Prompted(1), Delta(0, "Ada", 1), Delta(0, " lives", 1, (), "stop")]


class Response:
    """As Ray Serve's: awaitable, or an iterator of events; an exception among them is raised in its place."""

    def __init__(self, answer: list[Any]) -> None:
        self._answer, self.cancelled = iter(answer), False

    def __await__(self) -> Any:
        answer = list(self._answer)
        for each in answer:
            if isinstance(each, BaseException):
                raise each
        return answer
        yield  # makes it a generator

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        each = next(self._answer, None)
        if each is None:
            raise StopAsyncIteration
        if isinstance(each, BaseException):
            raise each
        return each

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """Gives one answer after another."""

    def __init__(self, *answers: list[Any]) -> None:
        self.responses = [Response(answer) for answer in answers]
        self.left = iter(self.responses)
        self.asked: list[Any] = []
        self.complete = self.stream = self

    def options(self, **options: Any) -> "Handle":
        self.asked.append(options)
        return self

    def remote(self, *arguments: Any) -> Response:
        self.asked.append(arguments)
        return next(self.left)


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("stream", "traceback", cause)


def complete(handle: Handle, start_s: float = 5.0) -> list[Event]:
    server = ServeBackend({"original": handle}, None, None, start_s)
    return asyncio.run(server.complete(TARGET, "x", Sampling()))


def streamed(handle: Handle) -> list[Event]:
    found: list[Event] = []

    async def run() -> None:
        async for event in ServeBackend({"original": handle}, None, None, 5.0).stream(TARGET, "x", Sampling()):
            found.append(event)  # noqa: PERF401  # those before the error are wanted

    try:
        asyncio.run(run())
    except EngineDiedError:
        found.append(Delta(0, "died", 0))
    return found


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "RETRY_PAUSE_S", 0.0)


@pytest.mark.parametrize("death", [RayActorError(), EngineDiedError("x"), task_error(EngineDiedError("x"))])
def test_another_replica_answers_where_one_died(death: Exception) -> None:
    assert complete(Handle([death], [EVENTS[0], death], EVENTS)) == EVENTS
    assert streamed(Handle([death], EVENTS)) == EVENTS
    assert streamed(Handle([EVENTS[0], death], EVENTS)) == EVENTS  # the prompt was read, nothing answered


def test_a_stream_that_has_begun_is_never_begun_again() -> None:
    handle = Handle([*EVENTS[:2], RayActorError()], EVENTS)
    assert streamed(handle) == [*EVENTS[:2], Delta(0, "died", 0)]
    assert handle.responses[0].cancelled


def test_no_time_is_left_for_another_try() -> None:
    with pytest.raises(ApiError, match="no replica of original answers") as raised:
        complete(Handle([RayActorError()]), start_s=-1.0)
    assert (raised.value.status, raised.value.retry_after_s) == (503, 10)


def test_what_a_replica_refuses_is_not_tried_again() -> None:
    refusal = ApiError(400, "the prompt has 9 tokens", param="prompt")
    with pytest.raises(ApiError, match="the prompt has 9 tokens") as raised:
        complete(Handle([task_error(refusal)]))
    assert (raised.value.status, raised.value.param) == (400, "prompt")


def test_a_full_queue_and_a_bug() -> None:
    with pytest.raises(ApiError, match="too many requests are waiting for original") as raised:
        complete(Handle([BackPressureError(5, 5)]))
    assert (raised.value.status, raised.value.retry_after_s) == (429, 1)
    with pytest.raises(ApiError, match="original failed with ZeroDivisionError") as raised:
        complete(Handle([task_error(ZeroDivisionError())]))
    assert raised.value.status == 500


def test_a_model_without_a_replica_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Never(Response):
        def __await__(self) -> Any:
            return asyncio.Event().wait().__await__()

    handle = Handle()
    handle.left = iter([Never([])])

    async def down() -> Mapping[str, bool]:
        return {"original": False}

    monkeypatch.setattr(backend_module, "WATCH_S", 0.01)
    server = ServeBackend({"original": handle}, None, None, 0.05)
    monkeypatch.setattr(server, "ready", down)
    with pytest.raises(ApiError, match="no replica of original runs"):
        asyncio.run(asyncio.wait_for(server.complete(TARGET, "x", Sampling()), 10))


def test_folders_of_the_alias_file_are_loaded_on_demand() -> None:
    rare = Handle(EVENTS)
    server = ServeBackend({}, rare, None, 5.0)
    target = Target("production", None, None, folder="runs/a/model")
    assert asyncio.run(server.complete(target, "x", Sampling())) == EVENTS
    assert rare.asked == [{"stream": False, "multiplexed_model_id": "runs/a/model"}, ("runs/a/model", "x", Sampling())]
    with pytest.raises(ApiError, match="loads none on demand"):
        asyncio.run(ServeBackend({}, None, None, 5.0).complete(target, "x", Sampling()))
