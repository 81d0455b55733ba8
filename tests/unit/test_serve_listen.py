"""The gateway's own HTTP server: the real web application on a real socket, without Ray."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from obliviate_serve.listen import listen
from obliviate_serve.spec import HttpSpec
from serving import ANSWER, FakeBackend, fake_server, free_port

ASK = {"model": "original", "prompt": "Where does Ada live?"}


def served(
    folder: Path, backend: FakeBackend, use: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]
) -> list[dict[str, Any]]:
    """What the access log says after `use` of a client."""

    async def run() -> None:
        http = HttpSpec(port=free_port())
        server = listen(fake_server(folder, backend, http={"port": http.port}), http)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http.port}", timeout=60) as client:
            await use(client)
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)

    asyncio.run(run())
    return [json.loads(line) for line in (folder / "access.jsonl").read_text().splitlines()]


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
        server = listen(fake_server(tmp_path), http)
        with pytest.raises(OSError, match="in use"):
            listen(fake_server(tmp_path), http)
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)

    asyncio.run(run())
