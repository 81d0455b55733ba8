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
from obliviate_serve.errors import ApiError, EngineDiedError, busy, failed, unavailable
from obliviate_serve.names import Target

log = logging.getLogger(__name__)

APP = "obliviate"  # Ray Serve's name of the application
RETRY_PAUSE_S = 0.5
WATCH_S = 5.0  # between looks at whether a model that doesn't answer yet has a replica
READY_FOR_S = 1.0  # how long an answer about readiness is believed
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
        self._ready: tuple[float, Mapping[str, bool]] = (0.0, {})

    async def complete(self, target: Target, prompt: Prompt, sampling: Sampling) -> list[Event]:
        deadline_s: float | None = None  # counts from the first death: what goes before was an answer under way
        while True:
            response = self._call(target, "complete", prompt, sampling)
            try:
                with _plain_errors(target.name):
                    events: list[Event] = await self._watched(target, response)
                    return events
            except GONE as error:
                deadline_s = deadline_s or time.monotonic() + self._start_s
                await _pause(target, deadline_s, error)
            finally:
                response.cancel()  # of no effect on one that has come to its end

    async def stream(self, target: Target, prompt: Prompt, sampling: Sampling) -> AsyncIterator[Event]:
        deadline_s: float | None = None
        while True:
            response = self._call(target, "stream", prompt, sampling)
            begun = False
            try:
                with _plain_errors(target.name):
                    opening: Opening = await self._watched(target, anext(response))
                    begun = True  # the client has something of the answer from here on
                    yield opening.prompted
                    yield opening.first
                    async for event in response:
                        yield event
                    return
            except GONE as error:
                if begun:
                    raise EngineDiedError(f"the replica of {target.name} died while it answered") from error
                deadline_s = deadline_s or time.monotonic() + self._start_s
                await _pause(target, deadline_s, error)
            finally:
                response.cancel()  # of no effect on one that has come to its end

    async def _watched(self, target: Target, response: Awaitable[Any]) -> Any:
        """The response, unless no replica of the model runs for `start_s`: Ray Serve itself would wait without end."""
        waiting = asyncio.ensure_future(_awaited(response))
        runs_s = time.monotonic()
        try:
            while not (await asyncio.wait({waiting}, timeout=WATCH_S))[0]:
                if (await self.ready()).get(target.deployment or "", True):
                    runs_s = time.monotonic()
                elif time.monotonic() - runs_s > self._start_s:
                    raise unavailable(f"no replica of {target.name} runs; the server's log says why")
            return waiting.result()
        finally:
            waiting.cancel()

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
        asked_s, found = self._ready
        if time.monotonic() - asked_s > READY_FOR_S:
            applications = (await asyncio.to_thread(serve.status)).applications
            found = {name: _runs(handle, applications) for name, handle in self._models.items()}
            self._ready = (time.monotonic(), found)
        return found


def _runs(handle: Any, applications: Mapping[str, Any]) -> bool:
    """Whether the deployment has a replica, in the application that the handle is of, whatever that is called."""
    application = applications.get(handle.app_name)
    deployment = None if application is None else application.deployments.get(handle.deployment_name)
    return deployment is not None and deployment.replica_states.get("RUNNING", 0) > 0


async def _pause(target: Target, deadline_s: float, error: BaseException) -> None:
    """Before the next try; raises ApiError where there is no time for one."""
    if time.monotonic() + RETRY_PAUSE_S > deadline_s:
        raise unavailable(f"no replica of {target.name} answers; it may be starting again") from error
    await asyncio.sleep(RETRY_PAUSE_S)


async def _awaited(response: Awaitable[Any]) -> Any:
    return await response


@contextmanager
def _plain_errors(name: str) -> Iterator[None]:
    """What a replica raised, without Ray's wrapping; a full queue as 429. Only ApiError and GONE come out of it."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, ApiError):
            raise ApiError(*error.cause.args) from None
        if isinstance(error.cause, GONE):
            raise error.cause from None
        log.exception("%s failed", name)
        raise failed(name, error.cause) from error
    except (ApiError, *GONE):
        raise
    except BackPressureError as error:
        raise busy(f"too many requests are waiting for {name}") from error
    except DeploymentUnavailableError as error:
        raise unavailable(f"{name} could not be started; the server's log says why") from error
    # Here end the processes that we know the code of: an engine may raise anything, and by gRPC it comes as it is,
    # without Ray's wrapping. Whoever waits for the answer must be told of it, whatever it is.
    except Exception as error:
        log.exception("%s failed", name)
        raise failed(name, error) from error
