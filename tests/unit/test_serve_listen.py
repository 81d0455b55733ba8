"""The gateway's own HTTP server: the real web application on a real socket, without Ray."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from obliviate_serve.listen import listen, listener
from obliviate_serve.spec import HttpSpec, LimitsSpec
from serving import ANSWER, FakeBackend, fake_server, free_port

DEFAULTS = LimitsSpec()
ASK = {"model": "original", "prompt": "Where does Ada live?"}


def served(
    folder: Path,
    backend: FakeBackend,
    use: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]],
    limits: LimitsSpec = DEFAULTS,
) -> list[dict[str, Any]]:
    """What the access log says after `use` of a client."""

    async def run() -> None:
        http = HttpSpec(port=free_port())
        server = listen(fake_server(folder, backend, http={"port": http.port}), http, limits)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http.port}", timeout=60) as client:
            await use(client)
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)

    asyncio.run(run())
    return [json.loads(line) for line in (folder / "access.jsonl").read_text().splitlines()]


async def spoken(client: httpx.AsyncClient, *pieces: bytes, then_s: float = 0.0) -> bytes:
    """What a connection is told to these bytes, until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(then_s)
        return await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()


@pytest.mark.parametrize("said", [b"", b"\r\n", b"GET /healthz HTTP/1.1\r\nhost: loc"])
def test_a_head_that_never_ends(tmp_path: Path, said: bytes) -> None:
    """Of a new connection, and of one that has had its answer."""

    async def use(client: httpx.AsyncClient) -> None:
        assert (await spoken(client, said)).startswith(b"HTTP/1.1 408 ")
        if said:
            whole = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
            answered, told = (await spoken(client, whole, said, then_s=0.2)).split(b"HTTP/1.1 ")[1:]
            assert (answered[:3], told[:3]) == (b"200", b"408")

    served(tmp_path, FakeBackend(), use, LimitsSpec(head_s=0.5))


@pytest.mark.parametrize(
    "more",
    [
        b"x-a: " + b"a" * 1000,
        b"x-a: b\r\n" * 100,
        b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n" + b"x-a: b\r\n" * 1000,
    ],
    ids=["one", "many", "behind a body"],
)
def test_headers_are_not_piled_up(tmp_path: Path, more: bytes) -> None:
    """4 MB of them, before a token is looked at; behind a body too, where those of a head may come again."""

    async def use(client: httpx.AsyncClient) -> None:
        head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        try:
            told = await spoken(client, head, more, *[b"x-a: b\r\n" * 10_000] * 50)
        except ConnectionError:
            return  # it hung up on what it had not read
        assert told.startswith(b"HTTP/1.1 431 ")

    limits = LimitsSpec(head_bytes=1024, body_bytes=1024, body_s=60)
    assert served(tmp_path, FakeBackend(), use, limits)[1:] == []


def test_a_large_body_is_no_large_head(tmp_path: Path) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        for _ in range(2):
            asked = {**ASK, "prompt": "x" * 500_000, "max_tokens": 1}
            assert (await client.post("/v1/completions", json=asked)).status_code == 200

    assert len(served(tmp_path, FakeBackend(), use, LimitsSpec(head_bytes=1024))) == 2


def test_connections_have_a_number(tmp_path: Path) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        held = [await asyncio.open_connection("127.0.0.1", client.base_url.port) for _ in range(3)]
        await asyncio.sleep(0.1)
        assert b"3 connections are open already" in await spoken(client)
        held[0][1].close()
        await asyncio.sleep(0.1)
        assert (await client.get("/healthz")).status_code == 200
        for _, writer in held[1:]:
            writer.close()

    served(tmp_path, FakeBackend(), use, LimitsSpec(connections=3))


def test_tokens_do_not_wait_for_acknowledgements() -> None:
    """Nagle's algorithm is off on accepted connections, whatever event loop takes them."""
    with (
        listener(HttpSpec(port=free_port())) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_it_answers_whole_and_streamed(tmp_path: Path) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        whole = await client.post("/v1/completions", json=ASK)
        assert whole.json()["choices"][0]["text"] == ANSWER
        assert whole.headers["x-content-type-options"] == "nosniff"
        async with client.stream("POST", "/v1/completions", json={**ASK, "stream": True}) as response:
            lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
        assert lines.pop() == "[DONE]"
        assert "".join(json.loads(line)["choices"][0]["text"] for line in lines) == ANSWER

    assert [line["status"] for line in served(tmp_path, FakeBackend(), use)] == [200, 200]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_ends_its_request(tmp_path: Path, stream: bool) -> None:
    """Of a model that would never come to an end."""
    backend, left = FakeBackend(), asyncio.Event()
    whole = backend.stream

    async def endless(*arguments: Any) -> AsyncIterator[Any]:
        try:
            async for event in whole(*arguments):
                yield event
            await asyncio.sleep(3600)
        finally:
            left.set()

    backend.stream = endless  # type: ignore[method-assign]

    async def use(client: httpx.AsyncClient) -> None:
        asked = {**ASK, "stream": stream}
        if stream:
            async with client.stream("POST", "/v1/completions", json=asked) as response:
                await anext(response.aiter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/v1/completions", json=asked, timeout=1)
        await left.wait()

    assert [line["status"] for line in served(tmp_path, backend, use)] == [499]


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    async def run() -> None:
        http = HttpSpec(port=free_port())
        server = listen(fake_server(tmp_path), http, LimitsSpec())
        with pytest.raises(OSError, match="in use"):
            listen(fake_server(tmp_path), http, LimitsSpec())
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)

    asyncio.run(run())
