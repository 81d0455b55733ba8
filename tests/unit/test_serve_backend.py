"""What the gateway does when a replica dies, refuses or stays away; the handles are fakes."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError

from obliviate_serve import backend as backend_module
from obliviate_serve.backend import ServeBackend
from obliviate_serve.engine import Delta, Event, Opening, Prompted, Sampling
from obliviate_serve.errors import ApiError, EngineDiedError, unavailable
from obliviate_serve.names import Target

TARGET = Target("original", "original", None)
EVENTS: list[Event] = [Prompted(1), Delta(0, "Ada", 1), Delta(0, " lives", 1, (), "stop")]
MESSAGES = [Opening(Prompted(1), Delta(0, "Ada", 1)), EVENTS[2]]  # the same, as a replica streams them


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

    app_name, deployment_name = "another", "model-original"

    def __init__(self, *answers: list[Any]) -> None:
        self.responses = [Response(answer) for answer in answers]
        self.left = iter(self.responses)
        self.asked: list[Any] = []

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
    assert streamed(Handle([death], MESSAGES)) == EVENTS


def test_a_stream_that_has_begun_is_never_begun_again() -> None:
    handle = Handle([MESSAGES[0], RayActorError()], MESSAGES)
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


def test_a_full_queue() -> None:
    with pytest.raises(ApiError, match="too many requests are waiting for original") as raised:
        complete(Handle([BackPressureError(5, 5)]))
    assert (raised.value.status, raised.value.retry_after_s) == (429, 1)


@pytest.mark.parametrize("bug", [ZeroDivisionError(), task_error(ZeroDivisionError())])
def test_a_bug_in_a_replica(bug: Exception) -> None:
    """By gRPC what a replica raises comes without Ray's wrapping."""
    for ask, answer in ((complete, [bug]), (streamed, [bug]), (streamed, [*MESSAGES, bug])):
        with pytest.raises(ApiError, match="original failed with ZeroDivisionError") as raised:
            ask(Handle(answer))
        assert (raised.value.status, raised.value.code) == (500, "model_failed")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ZeroDivisionError(), 500, "nli failed with ZeroDivisionError"),
        (task_error(ZeroDivisionError()), 500, "nli failed with ZeroDivisionError"),
        (RayActorError(), 503, "no replica of nli answers"),
    ],
)
def test_the_judge_fails(error: Exception, status: int, message: str) -> None:
    judge = SimpleNamespace(judge=Handle([error]))
    with pytest.raises(ApiError, match=message) as raised:
        asyncio.run(ServeBackend({}, None, judge, 5.0).entailment([("a", "b")]))
    assert raised.value.status == status


def test_the_time_for_another_try_counts_from_the_death(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replica dies at second 100 of an answer, and others at 102 and 104: within 5 s of the first death."""
    now_s = 0.0

    def death(at_s: float) -> Any:
        class Dies(Response):
            def __await__(self) -> Any:
                nonlocal now_s
                now_s = at_s
                raise RayActorError
                yield

        return Dies([])

    handle = Handle()
    handle.left = iter([death(100.0), death(102.0), death(104.0), Response(EVENTS)])
    monkeypatch.setattr(backend_module, "time", SimpleNamespace(monotonic=lambda: now_s))
    assert complete(handle) == EVENTS
    handle.left = iter([death(100.0), death(106.0), Response(EVENTS)])
    now_s = 0.0
    with pytest.raises(ApiError, match="no replica of original answers"):
        complete(handle)


def test_readiness_is_that_of_the_handles_own_application(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {"RUNNING": 1}

    def status() -> Any:
        deployment = SimpleNamespace(replica_states=states)
        application = SimpleNamespace(deployments={"model-original": deployment})
        return SimpleNamespace(applications={"another": application})

    monkeypatch.setattr(backend_module.serve, "status", status)
    assert asyncio.run(ServeBackend({"original": Handle()}, None, None, 5.0).ready()) == {"original": True}
    elsewhere = Handle()
    elsewhere.app_name = "elsewhere"
    assert asyncio.run(ServeBackend({"original": elsewhere}, None, None, 5.0).ready()) == {"original": False}
    states["RUNNING"] = 0
    assert asyncio.run(ServeBackend({"original": Handle()}, None, None, 5.0).ready()) == {"original": False}


def test_a_handle_with_options_is_made_once() -> None:
    handle = Handle(EVENTS, EVENTS, MESSAGES)
    server = ServeBackend({"original": handle}, None, None, 5.0)

    async def run() -> None:
        for _ in range(2):
            await server.complete(TARGET, "x", Sampling())
        assert [event async for event in server.stream(TARGET, "x", Sampling())] == EVENTS

    asyncio.run(run())
    made = [each for each in handle.asked if isinstance(each, dict)]
    assert made == [{"method_name": "complete", "stream": False}, {"method_name": "stream", "stream": True}]


def test_a_model_without_a_replica_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No longer than the limit; the log says why, and the client is told nothing of where things lie."""

    class Never(Response):
        def __await__(self) -> Any:
            return asyncio.Event().wait().__await__()

    handle = Handle()
    message = "failed to start:\n  File x\nUserError: no such file or folder: /secret/model\n"
    deployment = SimpleNamespace(replica_states={"RUNNING": 0}, message=message)
    status = SimpleNamespace(applications={"another": SimpleNamespace(deployments={"model-original": deployment})})
    monkeypatch.setattr(backend_module.serve, "status", lambda: status)
    for target in (TARGET, Target("rare", None, None)):
        handle.left = iter([Never([])])
        server = ServeBackend({"original": handle}, handle, None, 0.3)
        with pytest.raises(ApiError, match=f"no replica of {target.name} runs; the server's log says why$"):
            asyncio.run(asyncio.wait_for(server.complete(target, "x", Sampling()), 4))  # before the second look
    told = "no replica of rare runs; the server's log says why: UserError: no such file or folder: /secret/model"
    assert told in caplog.text


def test_a_death_and_a_replica_that_stays_away_are_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first replica dies at second 100, and no other comes: with 5 s for a start, the answer comes at 105."""
    now_s, waits = 100.0, list[float]()

    async def wait(tasks: Any, timeout: float) -> tuple[set[Any], set[Any]]:
        nonlocal now_s
        task = next(iter(tasks))
        await asyncio.sleep(0)
        if task.done():
            return {task}, set()
        waits.append(timeout)
        now_s += timeout
        return set(), set(tasks)

    class Never(Response):
        def __await__(self) -> Any:
            return asyncio.Event().wait().__await__()

    handle = Handle()
    handle.left = iter([Response([RayActorError()]), Never([])])
    server = ServeBackend({"original": handle}, None, None, 5.0)
    status = SimpleNamespace(applications={})
    monkeypatch.setattr(backend_module.serve, "status", lambda: status)
    monkeypatch.setattr(backend_module, "WATCH_S", 2.0)
    monkeypatch.setattr(backend_module, "time", SimpleNamespace(monotonic=lambda: now_s))
    monkeypatch.setattr(backend_module.asyncio, "wait", wait)
    with pytest.raises(ApiError, match="no replica of original runs"):
        asyncio.run(server.complete(TARGET, "x", Sampling()))
    assert waits == [2.0, 2.0, 1.0]


def test_why_a_model_cannot_be_loaded_is_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    error = unavailable("the model could not be loaded; the server's log says why", reason="/secret/model is gone")
    for raised in (error, task_error(error)):
        caplog.clear()
        with pytest.raises(ApiError) as told:
            complete(Handle([raised]))
        assert "secret" not in str(told.value.body)
        assert "could not be loaded; the server's log says why: /secret/model is gone" in caplog.text


def test_folders_of_the_alias_file_are_loaded_on_demand() -> None:
    rare = Handle(EVENTS)
    server = ServeBackend({}, rare, None, 5.0)
    target = Target("production", None, None, folder="runs/a/model")
    assert asyncio.run(server.complete(target, "x", Sampling())) == EVENTS
    options = {"method_name": "complete", "stream": False, "multiplexed_model_id": "runs/a/model"}
    assert rare.asked == [options, ("runs/a/model", "x", Sampling())]
    with pytest.raises(ApiError, match="loads none on demand"):
        asyncio.run(ServeBackend({}, None, None, 5.0).complete(target, "x", Sampling()))
