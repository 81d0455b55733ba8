"""Connections before anybody has asked anything: how many there may be, and how long and large a request's head.

The guard sees a request once its headers are complete. Until then a stranger could hold connections open, or have
headers piled up in memory, for as long as he likes.
"""

import json
from asyncio import TimerHandle, Transport
from http import HTTPStatus
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from obliviate_serve.errors import ApiError, busy
from obliviate_serve.spec import LimitsSpec

CHUNKED = 8  # bytes on the wire for a byte of a body, at most: it may come in chunks of one


class Door(HttpToolsProtocol):
    """One connection. uvicorn makes the instances, so a subclass for each server has its limits."""

    limits: ClassVar[LimitsSpec]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._received = 0  # bytes of the request under way
        self._headless: TimerHandle | None = None  # runs while a head is waited for

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(busy(f"{self.limits.connections} connections are open already"))
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._headless is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()
        self._received += len(data)
        super().data_received(data)
        most = self.limits.head_bytes
        if self._headless is None:
            most += CHUNKED * self.limits.body_bytes  # behind a body there may be headers again
        if self._received > most and not self.transport.is_closing():
            self._refuse(
                ApiError(431, f"the request's head exceeds {self.limits.head_bytes} bytes", code="head_too_large")
            )

    def on_message_begin(self) -> None:
        self._received = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_is_here()
        super().on_headers_complete()

    def _await_head(self) -> None:
        self._received = 0
        self._headless = self.loop.call_later(self.limits.head_s, self._too_slow)

    def _head_is_here(self) -> None:
        if self._headless is not None:
            self._headless.cancel()
            self._headless = None

    def _too_slow(self) -> None:
        self._headless = None
        if not self.transport.is_closing():
            self._refuse(ApiError(408, f"the request's head took longer than {self.limits.head_s:g} s", code="timeout"))

    def _refuse(self, error: ApiError) -> None:
        """Say why, and hang up."""
        body = json.dumps({"error": error.body.model_dump()}).encode()
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def door(its_limits: LimitsSpec) -> type[Door]:
    class Limited(Door):
        limits = its_limits

    return Limited
