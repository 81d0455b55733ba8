"""A real S3 API on loopback: moto's server, in an environment of its own, for what it needs clashes with Ray's."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

MOTO = (sys.executable, "-m", "uv", "tool", "run", "--from", "moto[server]==5.*", "moto_server")
START_S = 120.0


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of an empty bucket; the environment, while the fixture lives, says where it is and who may use it."""
    installed = subprocess.run([*MOTO, "--help"], capture_output=True, text=True, check=False, timeout=240)
    if installed.returncode != 0:
        pytest.skip(f"no S3 server: moto cannot be had from a package index: {installed.stderr.strip()[-200:]}")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen([*MOTO, "-p", str(port)], stdout=log, stderr=log, start_new_session=True)
        with pytest.MonkeyPatch.context() as environment:
            for name, value in {
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }.items():
                environment.setenv(name, value)
            try:
                _create(f"{endpoint}/bucket", server)
                yield "s3://bucket"
            finally:
                os.killpg(server.pid, 9)
                server.wait()


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Of this node, for what it has fetched; removed, it is another node's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def _create(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=10).close()
            return
        except OSError:
            assert server.poll() is None, "the S3 server has ended"
            assert time.monotonic() < deadline_s, "the S3 server does not answer"
            time.sleep(0.2)
