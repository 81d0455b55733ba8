"""What strangers can take of the gateway: memory by requests that are wrong in many ways, attention by slow clients.

The real web application on a socket of its own, in a process of its own; its models answer from a table. It is sent
fuzzed requests (--requests) on every route, then holds slow clients (--clients: a third in the middle of their body, a
third that never read the stream that they asked for, a third that ask for one and read it slowly) and is asked for its
health, in turns with and without them; at last it makes the largest answer that it allows. A 5xx, memory that grows
by more than 20 MB after the first tenth, or health that takes more than 0.1 s (99th percentile) would count against us.

JSON keys: fuzzed_{2xx,3xx,4xx,5xx,hung_up}, fuzzed_per_s, fuzzed_memory_growth_bytes, held_clients, health_p99_s (with
_low and _high of the rounds), held_health_p99_s (likewise), large_answer_s, large_answer_bytes, large_health_max_s.
"""

import argparse
import asyncio
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median, quantiles
from typing import Any

import psutil

from obliviate_serve.app import create_app
from obliviate_serve.engine import Delta, Event, Prompt, Prompted, Rendered, Sampling, Token
from obliviate_serve.listen import listen
from obliviate_serve.names import Target
from obliviate_serve.spec import ServeRun

CONNECTIONS = 16  # that fuzzed requests come by
ROUNDS = 5  # of health with and without slow clients
ASKED = 100  # times in each
PAUSE_S = 0.02  # between two tokens, to a slow client
TOKEN = Token("word", -0.5, 1.0, tuple((f"other{i}", -1.0 - i) for i in range(20)))
BASES: dict[str, dict[str, Any]] = {
    "POST /v1/completions": {"model": "m", "prompt": "a b", "max_tokens": 2, "logprobs": 1, "echo": True, "n": 2},
    "POST /v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": "a"}], "max_tokens": 2},
    "POST /v1/responses": {"model": "m", "input": "a", "max_output_tokens": 2, "stream": True},
    "POST /tokenize": {"model": "m", "prompt": "a b"},
    "POST /detokenize": {"model": "m", "tokens": [1, 2]},
    "POST /v1/probe": {"models": ["m"], "question": "a", "answer": "b", "attacks": ["none"], "max_tokens": 2},
    "POST /v1/compare": {"models": ["m"], "questions": [{"question": "a"}], "max_tokens": 2},
    "PUT /v1/aliases/x": {"model": "m"},
}
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**70, 1e308, "", "x", "x" * 2000, "\ud800", [], {}, [[]], [1], ["x"], {"type": "text"},
    "none", [{"role": "user", "content": ""}], {"1": 5}, [None] * 50,
)  # fmt: skip


class Table:
    """Of every prompt `max_tokens` words. Those of a stream come slowly where the prompt says so."""

    async def complete(self, target: Target, prompt: Prompt, sampling: Sampling) -> list[Event]:
        if sampling.max_tokens == 0 and not sampling.echo:
            return [Rendered((1, 2), "a b", 1024)]
        return [event async for event in self.stream(target, prompt, sampling)]

    async def stream(self, target: Target, prompt: Prompt, sampling: Sampling) -> AsyncIterator[Event]:
        alternatives = TOKEN.alternatives[: sampling.logprobs or 0]
        token = () if sampling.logprobs is None else (TOKEN._replace(alternatives=alternatives),)
        yield Prompted(2, "a b" if sampling.echo else "", token * 2 if sampling.echo else ())
        words = 16 if sampling.max_tokens is None else sampling.max_tokens
        for index in range(sampling.n):
            for place in range(max(1, words)):
                if prompt == "slow":
                    await asyncio.sleep(PAUSE_S)
                yield Delta(index, " word", 1, token, "length" if place >= words - 1 else None)

    async def entailment(self, pairs: Sequence[tuple[str, str]]) -> list[str] | None:
        return None

    async def ready(self) -> Mapping[str, bool]:
        return {"m": True}


async def serve(port: int, folder: str) -> None:
    values = {
        "models": {"m": {"source": "m", "engine": {"max_model_len": 4096}}},
        "http": {"port": port},
        "aliases_file": f"{folder}/aliases.json",
        "access_log": f"{folder}/access.jsonl",
        "limits": {"requests_per_token": 5000, "connections": 5000, "body_s": 300, "new_tokens": 4096},
    }
    spec = ServeRun.model_validate(values)
    await listen(create_app(spec, Table()), spec.http, spec.limits)


@contextmanager
def gateway(port: int) -> Any:
    """Its process."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([sys.executable, __file__, "--serve", str(port), folder])
        try:
            yield psutil.Process(process.pid)
        finally:
            process.kill()
            process.wait()


def request(route: str, body: bytes, host: str = "localhost") -> bytes:
    head = f"{route} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def fuzzed(drawn: random.Random) -> bytes:
    """A request on any route, with values, keys or bytes that are not as they should be."""
    route = drawn.choice(list(BASES))
    asked = dict(BASES[route])
    for _ in range(drawn.randrange(3)):
        asked[drawn.choice([*asked, "stream", "n", "stop", "tools", "seed", "x", "response_format"])] = drawn.choice(
            ODD
        )
    body = bytearray(json.dumps(asked).encode())
    if drawn.random() < 0.3:
        for _ in range(drawn.randint(1, 6)):
            body[drawn.randrange(len(body))] = drawn.randrange(256)
    if drawn.random() < 0.02:
        return drawn.randbytes(200) + b"\r\n\r\n"
    if drawn.random() < 0.05:
        method, end = drawn.choice(("GET", "PUT", "DELETE", "PATCH")), drawn.choice(("", "/", "%00"))
        route = f"{method} {route.partition(' ')[2]}{end}"
    return request(route, bytes(body), drawn.choice(("localhost", "localhost", "localhost", "elsewhere")))


async def answered(reader: asyncio.StreamReader, *, wanted: int = -1) -> tuple[int, int]:
    """The status of one answer, and the bytes of its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status, size = int(head[9:12]), 0
    if b"content-length: " in head:
        size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(size)
    elif b"chunked" in head:
        while length := int((await reader.readline()).strip(), 16):
            await reader.readexactly(length + 2)
            size += length
        await reader.readline()
    return status, size


async def fuzz(port: int, count: int, process: psutil.Process) -> dict[str, float]:
    counts: Counter[str] = Counter()
    before, began_s, left = process.memory_info().rss, time.perf_counter(), count

    async def client(seed: int) -> None:
        nonlocal left, before
        drawn, streams = random.Random(seed), None
        while left > 0:
            left -= 1
            if left == count - count // 10:
                before = process.memory_info().rss  # caches are full by now
            try:
                streams = streams or await asyncio.open_connection("127.0.0.1", port, limit=2**20)
                streams[1].write(fuzzed(drawn))
                status, _ = await asyncio.wait_for(answered(streams[0]), 60)
                counts[f"{status // 100}xx"] += 1
            except (ConnectionError, asyncio.IncompleteReadError):
                counts["hung_up"] += 1
                streams = None
        if streams is not None:
            streams[1].close()

    await asyncio.gather(*(client(seed) for seed in range(CONNECTIONS)))
    growth = process.memory_info().rss - before
    kinds = {f"fuzzed_{kind}": counts[kind] for kind in ("2xx", "3xx", "4xx", "5xx", "hung_up")}
    return {**kinds, "fuzzed_per_s": count / (time.perf_counter() - began_s), "fuzzed_memory_growth_bytes": growth}


async def health(port: int, times: int) -> list[float]:
    """Seconds until each answer, one after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    waits = []
    for _ in range(times):
        began_s = time.perf_counter()
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await answered(reader)
        waits.append(time.perf_counter() - began_s)
        await asyncio.sleep(0.002)
    writer.close()
    return waits


@contextmanager
def slow_clients(port: int, count: int) -> Any:
    """Their tasks; they leave when the block ends."""
    stream = request("POST /v1/completions", b'{"model": "m", "prompt": "slow", "max_tokens": 4000, "stream": true}')
    begun = stream[:-10]

    async def client(kind: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        try:
            writer.write(begun if kind == 0 else stream)
            while True:
                await (asyncio.sleep(3600) if kind < 2 else reader.read(100))
                await asyncio.sleep(1)
        finally:
            writer.close()

    tasks = [asyncio.create_task(client(number % 3)) for number in range(count)]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()


async def held(port: int, clients: int) -> dict[str, float]:
    alone, beside, most = [], [], 0
    for _ in range(ROUNDS):
        alone.append(p99(await health(port, ASKED)))
        with slow_clients(port, clients) as tasks:
            await asyncio.sleep(2)
            most = max(most, sum(not task.done() for task in tasks))
            beside.append(p99(await health(port, ASKED)))
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(1)
    return {"held_clients": most, **spread("health_p99_s", alone), **spread("held_health_p99_s", beside)}


async def large(port: int) -> dict[str, float]:
    """300,000 tokens and alternatives: 7 prompts of 2,000 tokens with 20 alternatives each."""
    asked = {"model": "m", "prompt": ["x"] * 7, "max_tokens": 2000, "logprobs": 20}
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    began_s = time.perf_counter()
    writer.write(request("POST /v1/completions", json.dumps(asked).encode()))
    answer = asyncio.create_task(answered(reader))
    waits: list[float] = []
    while not answer.done():
        waits += await health(port, 1)
    status, size = await answer
    assert status == 200
    seconds = time.perf_counter() - began_s
    writer.close()
    return {"large_answer_s": seconds, "large_answer_bytes": size, "large_health_max_s": max(waits)}


def p99(waits: Sequence[float]) -> float:
    return quantiles(waits, n=100, method="inclusive")[98]


def spread(key: str, rounds: Sequence[float]) -> dict[str, float]:
    return {key: median(rounds), f"{key}_low": min(rounds), f"{key}_high": max(rounds)}


async def measure(port: int, process: psutil.Process, requests: int, clients: int) -> dict[str, float]:
    while True:
        try:
            await health(port, 1)
            break
        except ConnectionError:
            await asyncio.sleep(0.1)
    return {**await fuzz(port, requests, process), **await held(port, clients), **await large(port)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5,000 requests and 200 clients")
    parser.add_argument("--json", action="store_true", help="taken for the sake of the others: nothing else is printed")
    parser.add_argument("--requests", type=int, default=None, metavar="N", help="fuzzed requests (default: 100,000)")
    parser.add_argument("--clients", type=int, default=None, metavar="N", help="slow clients (default: 1,000)")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--serve", nargs=2, metavar=("PORT", "FOLDER"), help=argparse.SUPPRESS)  # the gateway's process
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if arguments.serve:
        asyncio.run(serve(int(arguments.serve[0]), arguments.serve[1]))
        return
    requests = arguments.requests or (5_000 if arguments.quick else 100_000)
    clients = arguments.clients or (200 if arguments.quick else 1_000)
    with gateway(arguments.port) as process:
        figures = asyncio.run(measure(arguments.port, process, requests, clients))
    print(json.dumps({key: round(value, 4) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
