"""What every HTTP request passes before a route sees it: who asks, how much, how big, and what is written down of it.

A plain ASGI middleware, because streamed answers pass through it piece by piece.
"""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from obliviate_serve import trouble
from obliviate_serve.audit import Journal
from obliviate_serve.auth import ANYBODY, Caller, Role, Tokens
from obliviate_serve.errors import ApiError, busy
from obliviate_serve.metrics import Metrics
from obliviate_serve.spec import ServeRun

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/healthz", "/readyz"})  # asked by whoever watches over the server
WATCHED = frozenset({"/metrics"})  # likewise, with a token; none of these waits for others, nor counts against them
CLIENT_GONE = 499  # nginx's number, for the journal and the metrics alone
PATH = 256  # characters of a path that are written down
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """Routes find the caller, the request's id and what the journal is to hold in `scope["state"]`."""

    def __init__(self, app: App, spec: ServeRun, tokens: Tokens | None, metrics: Metrics, journal: Journal) -> None:
        self._app, self._spec, self._tokens = app, spec, tokens
        self._metrics, self._journal = metrics, journal
        self._under_way: Counter[tuple[str, str]] = Counter()  # requests by whose they are, see _counted
        self.draining = False

    @property
    def under_way(self) -> int:
        return self._under_way.total()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        asked_id = headers.get("x-request-id", "")
        request_id = asked_id if REQUEST_ID.fullmatch(asked_id) else uuid4().hex
        trouble.request_id.set(request_id)
        record: dict[str, Any] = {"request_id": request_id, "method": scope["method"], "path": scope["path"][:PATH]}
        scope.setdefault("state", {}).update(request_id=request_id, record=record)
        began_s = time.perf_counter()
        path = scope["path"].removeprefix(scope.get("root_path", ""))  # as the routes see it
        page = path not in OPEN and role_for(scope["method"], path) is None

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                scope["state"]["answered"] = True
            if message["type"] == "http.response.start":
                record["status"] = message["status"]
                added = {**SECURITY_HEADERS, "x-request-id": request_id}
                # The page's parts belong together: a browser asks each time whether it still has the right ones.
                added["cache-control"] = "no-cache" if page else "no-store"
                names = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((k.encode(), v.encode()) for k, v in added.items() if k.encode() not in names),
                ]
            await send(message)

        try:
            await self._guarded(path, scope, receive, answer, headers, record)
        except ApiError as error:
            await _send_error(answer, error)
        except asyncio.CancelledError:
            record["status"] = CLIENT_GONE
            working = asyncio.current_task()
            if working is None or not scope["state"].get("hung_up") or working.uncancel():
                raise  # somebody else wants it to end, and shall know that it has
        finally:
            record["seconds"] = round(time.perf_counter() - began_s, 6)
            self._metrics.request(scope, record)
            self._journal.write(record)

    async def _guarded(
        self, path: str, scope: Scope, receive: Receive, send: Send, headers: dict[str, str], record: dict[str, Any]
    ) -> None:
        self._check_host(headers)
        caller, needed = self._caller(headers), role_for(scope["method"], path)
        if caller is not None:
            record["token"] = caller.name
            scope["state"]["caller"] = caller
        if path in OPEN or needed is None:  # the page is small files, which a browser asks for all at once
            await self._app(scope, receive, send)
            return
        caller = _allowed(caller, needed)
        if path in WATCHED:
            await self._app(scope, receive, send)
            return
        # A foreign web page can send a form or plain text without asking the browser's leave, but never JSON.
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] in ("POST", "PUT") and media_type != "application/json":
            raise ApiError(415, "send the body as application/json", code="unsupported_media_type")
        if self.draining:
            raise ApiError(503, "the server is shutting down", "server_busy", code="draining", retry_after_s=10)
        with self._counted(caller, scope):
            body = await self._body(receive, headers)
            await _while_connected(self._app, scope, body, receive, send)

    @contextmanager
    def _counted(self, caller: Caller, scope: Scope) -> Iterator[None]:
        """One of the requests that its token, or without tokens its client's address, has under way."""
        who = (caller.name, "") if self._tokens is not None else ("", (scope.get("client") or ("",))[0])
        limit = self._spec.limits.requests_per_token
        if self._under_way[who] >= limit:
            whose = "token" if self._tokens is not None else "address"
            raise busy(f"{limit} requests of this {whose} are under way already")
        self._under_way[who] += 1
        try:
            yield
        finally:
            self._under_way[who] -= 1
            if not self._under_way[who]:
                del self._under_way[who]  # addresses are as many as strangers

    def _check_host(self, headers: dict[str, str]) -> None:
        hosts = self._spec.http.hosts
        name = re.sub(r":\d+$", "", headers.get("host", ""))
        if hosts is not None and name not in hosts:
            raise ApiError(421, f"the host {name!r} is not served here", code="unknown_host")

    def _caller(self, headers: dict[str, str]) -> Caller | None:
        """None: a stranger."""
        if self._tokens is None:
            return ANYBODY
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return self._tokens.caller(token.strip()) if scheme.lower() == "bearer" else None

    async def _body(self, receive: Receive, headers: dict[str, str]) -> bytes:
        """The whole body, at most `limits.body_bytes`, within `limits.body_s`."""
        limit = self._spec.limits.body_bytes
        too_large = ApiError(413, f"the body exceeds {limit} bytes", code="body_too_large")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            raise too_large
        pieces, size = [], 0
        try:
            async with asyncio.timeout(self._spec.limits.body_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(400, "the body ended early", code="incomplete_body")
                    pieces.append(message.get("body", b""))
                    size += len(pieces[-1])
                    if size > limit:
                        raise too_large
                    if not message.get("more_body", False):
                        return b"".join(pieces)
        except TimeoutError as error:
            raise ApiError(408, f"the body took longer than {self._spec.limits.body_s:g} s", code="timeout") from error


def _allowed(caller: Caller | None, needed: Role) -> Caller:
    if caller is None:
        raise ApiError(
            401, "give a valid token: Authorization: Bearer TOKEN", "authentication_error", code="invalid_api_key"
        )
    if not caller.role.includes(needed):
        raise ApiError(403, f"this token may {caller.role}; this needs {needed}", "permission_error", code="role")
    return caller


def role_for(method: str, path: str) -> Role | None:
    """What a token must be good for. None: reading the page and its parts, which hold nothing of anybody's."""
    if path.startswith("/v1/aliases"):
        return Role.ADMIN
    if path.startswith(("/v1/probe", "/v1/compare", "/v1/attacks", "/v1/render", "/v1/questions")):
        return Role.PROBE
    reads_page = method in ("GET", "HEAD") and not path.startswith(("/v1", "/metrics", "/openapi.json"))
    return None if reads_page else Role.QUERY


async def _while_connected(app: App, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Answer the request; once the client has gone away, cancel whatever works on it and say so in the state.

    A server tells of a client's going and of an answer's end by the same message.
    """
    working, state = asyncio.current_task(), scope["state"]
    assert working is not None
    gone, given = asyncio.ensure_future(receive()), False

    def end(_: object) -> None:
        if not gone.cancelled() and not state.get("answered"):
            state["hung_up"] = working.cancel()

    async def replay() -> Message:
        """The body once, then whatever the client does after it."""
        nonlocal given
        if given:
            return await asyncio.shield(gone)
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    gone.add_done_callback(end)
    try:
        await app(scope, replay, send)
    finally:
        gone.cancel()


async def _send_error(send: Send, error: ApiError) -> None:
    body = json.dumps({"error": error.body.model_dump()}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
