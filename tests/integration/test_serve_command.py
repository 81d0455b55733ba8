"""`obliviate serve` as a process of its own, from its start to a signal to stop."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from serving import free_port
from tiny import tiny_model_folder

pytestmark = pytest.mark.integration

COMMAND = [sys.executable, "-c", "from obliviate_cli.main import main; main()", "serve"]


def test_a_server_that_is_told_to_stop_ends_what_it_has_begun(tmp_path: Path) -> None:
    """It has a Ray of its own, and takes it along."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    config = tmp_path / "serve.yaml"
    values = {
        "models": {"tiny": {"source": str(tiny_model_folder(tmp_path / "model"))}},
        "engine": {"type": "hf", "dtype": "float32", "max_model_len": 256, "cpus_per_replica": 0.2},
        "http": {"port": port},
        "access_log": str(tmp_path / "access.jsonl"),
        "address": "local",
    }
    config.write_text(yaml.safe_dump(values))
    asked = {"model": "tiny", "prompt": "The author", "max_tokens": 200, "n": 16, "stream": True}
    log = tmp_path / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen([*COMMAND, str(config)], stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until_ready(url, process, log)
        started = psutil.Process(process.pid).children(recursive=True)
        with httpx.stream("POST", f"{url}/v1/completions", json=asked, timeout=60) as response:
            lines = response.iter_lines()
            first = next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert process.wait(120) == 0
    finally:
        process.kill()
    finished = [json.loads(line[len("data: ") :]) for line in (first, *rest[:-1])]
    assert sum(each["choices"][0]["finish_reason"] is not None for each in finished) == 16
    assert rest[-1] == "data: [DONE]"
    assert "all requests came to their end" in log.read_text()
    assert psutil.wait_procs(started, timeout=30)[1] == []


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    while True:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
