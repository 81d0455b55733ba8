"""A Ray cluster of separate raylets on this machine: each node a tree of processes that can be killed by itself.

Token authentication is on, and the dashboard with its jobs API answers over HTTP: as on a real cluster.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType

import psutil

from processes import command

BIN = Path(sys.executable).parent
START_S = 120.0
ATTEMPTS = 3  # Ray gives a node 30 s to start, which a busy machine may not have


class RayCluster:
    """Starts the head when entered, kills whatever is left when left.

    `environment` is that of the nodes and of whoever talks to them. The package is there as it is installed, not by
    PYTHONPATH: an image holds it so.
    """

    def __init__(self, *, cpus: float, **environment: str) -> None:
        self._cpus = cpus
        self._folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: it becomes part of the sockets' paths
        self.gcs = f"127.0.0.1:{_free_port()}"
        self.dashboard = f"http://127.0.0.1:{_free_port()}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")},
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_USAGE_STATS_ENABLED": "0",
            **environment,
        }
        self._nodes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "RayCluster":
        self.start_node(
            "--head",
            f"--port={self.gcs.rpartition(':')[2]}",
            f"--dashboard-port={self.dashboard.rpartition(':')[2]}",
            "--dashboard-host=127.0.0.1",
            f"--ray-client-server-port={_free_port()}",
            f"--temp-dir={self._folder}",
            cpus=self._cpus,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for node in reversed(self._nodes):
            self.kill(node)
        shutil.rmtree(self._folder, ignore_errors=True)

    def start_node(self, *arguments: str, cpus: float, **environment: str) -> subprocess.Popen[bytes]:
        """A node more; `environment` is its own. Returns when the cluster counts it."""
        command = [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
        command += [f"--num-cpus={cpus:g}", "--num-gpus=0", f"--object-store-memory={128 * 2**20}"]
        command += ["--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={_free_port()}"]
        command += arguments or [f"--address={self.gcs}"]
        log = self._folder / "node.log"
        for _ in range(ATTEMPTS):
            with log.open("wb") as output:
                node = subprocess.Popen(
                    command,
                    env={**self.environment, **environment},
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            self._nodes.append(node)
            expected, deadline_s = self._running(), time.monotonic() + START_S
            while _lives(node) and time.monotonic() < deadline_s:
                if self.alive() == expected:
                    return node
                time.sleep(0.2)
            self.kill(node)
        raise AssertionError(f"no node could be started: {log.read_text()}")

    def kill_one_with(self, process: str) -> bool:
        """Kill a node, not the head, that runs a process with this (a pattern) in its title; whether there was one."""
        for node in self._nodes[1:]:
            if any(re.search(process, command(each)) for each in _tree(node)):
                self.kill(node)
                return True
        return False

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """All of its processes at once, as when a machine goes down."""
        for process in _tree(node):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        node.wait()

    def alive(self) -> int:
        """Nodes that the cluster counts as up; 0 while its dashboard does not answer."""
        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        request = urllib.request.Request(f"{self.dashboard}/api/v0/nodes", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                nodes = json.load(answer)["data"]["result"]["result"]
        except OSError:
            return 0
        return sum(node["state"] == "ALIVE" for node in nodes)

    def run(self, *command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command as a user of the cluster gives it, with the code under test."""
        return subprocess.run(
            command,
            cwd=folder,
            env=self.client(**environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    def client(self, **environment: str) -> dict[str, str]:
        return {**self.environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}

    def _running(self) -> int:
        return sum(_lives(node) for node in self._nodes)


def _lives(node: subprocess.Popen[bytes]) -> bool:
    return node.poll() is None


def _tree(node: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """All processes of a node; none of one that is gone."""
    if not _lives(node):
        return []
    root = psutil.Process(node.pid)
    return [root, *root.children(recursive=True)]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
