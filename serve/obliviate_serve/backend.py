"""The gateway's way to the models: Ray Serve's handles behind a protocol, with another try where a replica died."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    RequestCancelledError,
)

from obliviate_serve.engine import Event, Opening, Prompt, Sampling
from obliviate_serve.errors import ApiError, EngineDiedError, busy, cause, failed, unavailable
from obliviate_serve.names import Target

log = logging.getLogger(__name__)

APP = "obliviate"  # Ray Serve's name of the application
RETRY_PAUSE_S = 0.5
WATCH_S = 5.0  # between looks at whether a model that doesn't answer yet has a replica
SEEN_FOR_S = 1.0  # how long what Ray Serve says of its applications is believed
GONE = (RayActorError, ReplicaUnavailableError, RequestCancelledError, EngineDiedError)

Pair = tuple[str, str]
Entailment = Callable[[Sequence[Pair]], list[str]]  # (premise, hypothesis) -> NLI labels


class Backend(Protocol):
    async def complete(self, target: Target, prompt: Prompt, sampling: Sampling) -> list[Event]:
        """All events. Tried again on another replica where one dies. Raises ApiError."""
        ...

    def stream(self, target: Target, prompt: Prompt, sampling: Sampling) -> AsyncIterator[Event]:
        """Events as they come. Tried again only while nothing has come yet: raises EngineDiedError after that."""
        ...

    async def entailment(self, pairs: Sequence[Pair]) -> list[str] | None:
        """None: this server has no NLI model."""
        ...

    async def ready(self) -> Mapping[str, bool]:
        """Of every model that is always loaded, whether it can answer now."""
        ...


class ServeBackend:
    """`models`: handles by model name; `on_demand`, `judge`: None where the server has none. Times in seconds."""

    def __init__(self, models: Mapping[str, Any], on_demand: Any | None, judge: Any | None, start_s: float) -> None:
        self._models, self._on_demand, self._judge, self._start_s = models, on_demand, judge, start_s
        self._methods: dict[tuple[str, str, bool], Any] = {}
        self._seen: tuple[float, Mapping[str, Any]] = (-SEEN_FOR_S, {})

    async def complete(self, target: Target, prompt: Prompt, sampling: Sampling) -> list[Event]:
        since_s: float | None = None  # the first death: what goes before was an answer under way
        while True:
            response = self._call(target, "complete", prompt, sampling)
            try:
                with _plain_errors(target.name):
                    events: list[Event] = await self._watched(target, response, since_s)
                    return events
            except GONE as error:
                since_s = since_s or time.monotonic()
                await _pause(target, since_s + self._start_s, error)
            finally:
                response.cancel()  # of no effect on one that has come to its end

    async def stream(self, target: Target, prompt: Prompt, sampling: Sampling) -> AsyncIterator[Event]:
        since_s: float | None = None
        while True:
            response = self._call(target, "stream", prompt, sampling)
            begun = False
            try:
                with _plain_errors(target.name):
                    opening: Opening = await self._watched(target, anext(response), since_s)
                    begun = True  # the client has something of the answer from here on
                    yield opening.prompted
                    yield opening.first
                    async for event in response:
                        yield event
                    return
            except GONE as error:
                if begun:
                    raise EngineDiedError(f"the replica of {target.name} died while it answered") from error
                since_s = since_s or time.monotonic()
                await _pause(target, since_s + self._start_s, error)
            finally:
                response.cancel()  # of no effect on one that has come to its end

    async def _watched(self, target: Target, response: Awaitable[Any], since_s: float | None) -> Any:
        """The response, unless no replica of the model runs for `start_s`: Ray Serve itself would wait without end.

        `since_s`: when the last one was seen, None: now.
        """
        waiting = asyncio.ensure_future(_awaited(response))
        handle = self._on_demand if target.deployment is None else self._models[target.deployment]
        runs_s = since_s or time.monotonic()
        try:
            while not (await asyncio.wait({waiting}, timeout=self._look_s(runs_s)))[0]:
                found = _deployment(handle, await self._applications())
                if _runs(found):
                    runs_s = time.monotonic()
                elif time.monotonic() >= runs_s + self._start_s:
                    why = "its deployment is gone" if found is None else cause(found.message)
                    raise unavailable(f"no replica of {target.name} runs; the server's log says why", reason=why)
            return waiting.result()
        finally:
            waiting.cancel()

    def _look_s(self, runs_s: float) -> float:
        """Until the next look at whether a replica runs: the one that is due, if none ran since."""
        left_s = runs_s + self._start_s - time.monotonic()
        return min(WATCH_S, left_s if left_s > 0 else RETRY_PAUSE_S)

    def _call(self, target: Target, method: str, prompt: Prompt, sampling: Sampling) -> Any:
        if target.deployment is not None:
            model, rare = target.deployment, False
        elif self._on_demand is not None:
            model, rare = target.folder or target.name, True
        else:
            raise unavailable(f"{target.name} is a model folder, and this server loads none on demand")
        remote = self._methods.get((model, method, rare))
        if remote is None:
            remote = self._methods[model, method, rare] = self._method(model, method, rare)
        if rare:
            return remote(model, prompt, sampling)
        return remote(prompt, sampling, target.adapter)

    def _method(self, model: str, method: str, rare: bool) -> Any:
        """Made once: a handle with options costs more than the call. Names are the operator's, so there are few."""
        options: dict[str, Any] = {"method_name": method, "stream": method == "stream"}
        if rare:
            assert self._on_demand is not None
            return self._on_demand.options(**options, multiplexed_model_id=model).remote
        return self._models[model].options(**options).remote

    async def entailment(self, pairs: Sequence[Pair]) -> list[str] | None:
        if self._judge is None or not pairs:
            return None
        try:
            with _plain_errors("nli"):
                labels: list[str] = await self._judge.judge.remote(list(pairs))
                return labels
        except GONE as error:
            raise unavailable("no replica of nli answers; it may be starting again") from error

    async def ready(self) -> Mapping[str, bool]:
        applications = await self._applications()
        return {name: _runs(_deployment(handle, applications)) for name, handle in self._models.items()}

    async def _applications(self) -> Mapping[str, Any]:
        """What Ray Serve says of them all."""
        asked_s, found = self._seen
        if time.monotonic() - asked_s > SEEN_FOR_S:
            found = (await asyncio.to_thread(serve.status)).applications
            self._seen = (time.monotonic(), found)
        return found


def _deployment(handle: Any, applications: Mapping[str, Any]) -> Any | None:
    """In the application that the handle is of, whatever that is called."""
    application = applications.get(handle.app_name)
    return None if application is None else application.deployments.get(handle.deployment_name)


def _runs(deployment: Any | None) -> bool:
    """Whether it has a replica."""
    return deployment is not None and deployment.replica_states.get("RUNNING", 0) > 0


async def _pause(target: Target, deadline_s: float, error: BaseException) -> None:
    """Before the next try; raises ApiError where there is no time for one."""
    if time.monotonic() + RETRY_PAUSE_S > deadline_s:
        log.error("%s: no replica answers: %s", target.name, type(error).__name__)
        raise unavailable(f"no replica of {target.name} answers; it may be starting again") from error
    await asyncio.sleep(RETRY_PAUSE_S)


async def _awaited(response: Awaitable[Any]) -> Any:
    return await response


def _log_reason(error: ApiError) -> None:
    if error.reason is not None:
        log.error("%s: %s", error, error.reason)


@contextmanager
def _plain_errors(name: str) -> Iterator[None]:
    """What a replica raised, without Ray's wrapping; a full queue as 429. Only ApiError and GONE come out of it."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, ApiError):
            _log_reason(error.cause)
            raise ApiError(*error.cause.args) from None
        if isinstance(error.cause, GONE):
            raise error.cause from None
        log.exception("%s failed", name)
        raise failed(name, error.cause) from error
    except ApiError as error:
        _log_reason(error)
        raise
    except GONE:
        raise
    except BackPressureError as error:
        raise busy(f"too many requests are waiting for {name}") from error
    except DeploymentUnavailableError as error:
        log.error("%s could not be started: %s", name, cause(str(error)))
        raise unavailable(f"{name} could not be started; the server's log says why") from error
    # Here end the processes that we know the code of: an engine may raise anything, and by gRPC it comes as it is,
    # without Ray's wrapping. Whoever waits for the answer must be told of it, whatever it is.
    except Exception as error:
        log.exception("%s failed", name)
        raise failed(name, error) from error
