"""A local Ray is this process's alone: not reached from outside the machine, nor by others on it."""

import os
import subprocess
import sys

import psutil
import pytest

from open_ports import listening, open_to_others, other_addresses

pytestmark = pytest.mark.integration

CONNECT = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
print("connected to", ray.nodes()[0]["NodeManagerAddress"])
"""


@pytest.fixture
def address(ray_local: None) -> str:
    """Of a Ray that has run something, so that there are workers."""
    import ray

    ray.get(ray.remote(lambda: None).remote())
    found: str = ray.get_runtime_context().gcs_address
    return found


@pytest.mark.usefixtures("address")
def test_no_port_is_open_to_others() -> None:
    if not other_addresses():
        pytest.skip("this machine has no address but loopback")
    assert len(listening(psutil.Process())) > 8
    assert open_to_others(psutil.Process()) == []


def connect(address: str, **environment: str) -> "subprocess.Popen[str]":
    """As another process of the same user."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    return subprocess.Popen(
        [sys.executable, "-c", CONNECT, address],
        env={**inherited, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_process_without_the_token_is_refused(address: str) -> None:
    without = [connect(address), connect(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)]
    for process in without:  # side by side: Ray takes 20 s to give up
        output, error = process.communicate(timeout=90)
        assert process.returncode != 0
        assert output == ""
        assert "authenticat" in error.lower(), error


def test_a_process_with_the_token_is_let_in(address: str) -> None:
    """The same command, so that what refused the others was the token. A worker of the cluster tells it; it knows the
    cluster's address too, which Ray's state API would not find beside another cluster."""
    import ray

    names = ("RAY_AUTH_TOKEN", "RAY_ADDRESS")
    token, told = ray.get(ray.remote(lambda: [os.environ[name] for name in names]).remote())
    assert told == address
    let_in = connect(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
    output, error = let_in.communicate(timeout=90)
    assert output == "connected to 127.0.0.1\n", error
    assert "RAY_AUTH_TOKEN" not in os.environ
