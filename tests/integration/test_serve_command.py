"""`obliviate serve` as a process of its own, from its start to a signal to stop."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from open_ports import open_to_others, other_addresses
from serving import free_port
from tiny import tiny_model_folder

pytestmark = pytest.mark.integration

COMMAND = [sys.executable, "-c", "from obliviate_cli.main import main; main()", "serve"]


@dataclass(frozen=True)
class Server:
    process: "subprocess.Popen[bytes]"
    log: Path
    url: str

    def said(self) -> str:
        return self.log.read_text()

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def wait_until(self, so: Callable[[], bool]) -> None:
        while not so():
            assert self.process.poll() is None, self.said()
            time.sleep(0.1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """It has a Ray of its own."""
    config, log = tmp_path / "serve.yaml", tmp_path / "serve.log"
    values = {
        "models": {
            "tiny": {"source": str(tiny_model_folder(tmp_path / "model"))},
            "vanished": {"source": str(tiny_model_folder(tmp_path / "vanished")), "on_demand": True},
        },
        "engine": {"type": "hf", "dtype": "float32", "max_model_len": 256, "cpus_per_replica": 0.2},
        "http": {"port": (port := free_port())},
        "access_log": str(tmp_path / "access.jsonl"),
        "address": "local",
    }
    config.write_text(yaml.safe_dump(values))
    with log.open("w") as output:
        process = subprocess.Popen([*COMMAND, str(config)], stdout=output, stderr=subprocess.STDOUT)
    try:
        yield Server(process, log, f"http://127.0.0.1:{port}")
    finally:
        process.kill()


def test_a_server_that_is_told_to_stop_ends_what_it_has_begun(server: Server) -> None:
    """It takes its Ray along."""
    asked = {"model": "tiny", "prompt": "The author", "max_tokens": 200, "n": 16, "stream": True}
    server.wait_until(server.ready)
    started = psutil.Process(server.process.pid).children(recursive=True)
    if other_addresses():
        assert open_to_others(psutil.Process(server.process.pid)) == []
    with httpx.stream("POST", f"{server.url}/v1/completions", json=asked, timeout=60) as response:
        lines = response.iter_lines()
        first = next(lines)
        server.process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert server.process.wait(120) == 0, server.said()
    finished = [json.loads(line[len("data: ") :]) for line in (first, *rest[:-1])]
    assert sum(each["choices"][0]["finish_reason"] is not None for each in finished) == 16
    assert rest[-1] == "data: [DONE]"
    assert "all requests came to their end" in server.said()
    assert psutil.wait_procs(started, timeout=90)[1] == []


def test_what_goes_wrong_is_printed_by_the_server_itself(server: Server, tmp_path: Path) -> None:
    """A folder that vanished, with the id of the request that asked for it; the client is not told where it was."""
    server.wait_until(server.ready)
    (tmp_path / "vanished").rename(tmp_path / "elsewhere")
    asked, headers = {"model": "vanished", "prompt": "x"}, {"x-request-id": "mine-1"}
    response = httpx.post(f"{server.url}/v1/completions", json=asked, headers=headers, timeout=120)
    assert response.status_code == 503
    assert str(tmp_path) not in response.text
    server.wait_until(lambda: "(request mine-1)" in server.said())
    assert "vanished: no such file or folder" in " ".join(server.said().split())


def test_a_server_that_is_told_to_stop_while_it_loads(server: Server) -> None:
    server.wait_until(lambda: "loading models" in server.said())
    started = psutil.Process(server.process.pid).children(recursive=True)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(120) == 0, server.said()
    assert "serving on" not in server.said()
    assert psutil.wait_procs(started, timeout=90)[1] == []
