"""The Ray cluster a run works on: connecting to it or starting one, and what of it a worker may have.

Resources are Ray's logical ones (CPUs, GPUs): they decide what is placed where, and nothing enforces them.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import floor
from urllib.parse import urlsplit

import ray
from ray._private.services import find_bootstrap_address
from ray.exceptions import AuthenticationError

from obliviate import local_ray, plugins
from obliviate.errors import UserError
from obliviate.kuberay import growth
from obliviate.nodes import Nodes, check_fits, places, total

CONNECT_TIMEOUT_S = 5.0
SET_TOKEN = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's"


# OpenMP threads that wait by spinning take the core that the one they wait for needs: beside other load a training step
# takes twice as long, and was seen to take ten times as long. On idle cores sleeping costs a quarter of the speed,
# which GOMP_SPINCOUNT=10000 in the environment gives back (docs/results.md).
THREADS_WAIT = {"OMP_WAIT_POLICY": "PASSIVE"}


def worker_environment(**more: str) -> dict[str, str]:
    """Environment of every process that computes, `more` of this kind; variables that the user has set keep theirs."""
    return {name: os.environ.get(name, value) for name, value in (THREADS_WAIT | more).items()}


def ensure_ray(address: str | None, *, dashboard: bool = False) -> None:
    """Connect this process to a cluster, unless it already is connected.

    `address` is host:port, or "local" for a new cluster on this machine; None: RAY_ADDRESS, else the cluster that
    `ray start` left running here, else a new local one, for this process and those that it starts. `dashboard` matters
    for a new one only (without it Ray Tune cannot free what stopped trials held). Raises UserError where nothing
    answers at the address, where the cluster turns this process away (for its token, or for another version of Ray or
    of Python), and where a new one does not start.
    """
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        running = find_bootstrap_address(None)
        if running is None or not answers(running):
            address = "local"
    elif address != "local" and not answers(address):
        raise UserError(
            f"cluster.address={address}: no Ray cluster answers there; give the host:port that `ray start --head` "
            "printed, or leave cluster.address and RAY_ADDRESS out for a local one"
        )
    with _terminable():
        if address == "local":
            local_ray.start(dashboard=dashboard)
        else:
            _connect(address)


def _connect(address: str | None) -> None:
    """To the cluster at the address, or to the one that runs here. Raises UserError as `ensure_ray` does."""
    local_ray.forget_token()
    try:
        environment = plugins.runtime_env()
        ray.init(address=address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    except AuthenticationError as error:
        raise UserError(f"cluster.address={address}: the cluster asks for another token; {SET_TOKEN}") from error
    except ConnectionError as error:  # the port is open; Ray says no more where the token is refused early
        raise UserError(
            f"cluster.address={address}: Ray does not answer: it is starting, or the cluster asks for another token; "
            f"{SET_TOKEN}"
        ) from error
    except RuntimeError as error:
        if not str(error).startswith("Version mismatch"):
            raise
        raise UserError(
            f"cluster.address={address}: {' '.join(str(error).split())}; install the cluster's versions here, or "
            "submit the run as a job (obliviate submit), which needs the same Ray alone"
        ) from error


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends this process as it did before: Ray's handler aborts it, with a trace of its machine code."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def answers(address: str) -> bool:
    """Whether something listens there: host:port, or a URL. Ray itself would go on trying for minutes."""
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        with socket.create_connection((parts.hostname or "", port), timeout=CONNECT_TIMEOUT_S):
            return True
    except (OSError, ValueError):  # ValueError: no number where the port belongs
        return False


def cores_share(n: int, gpus: float = 0.0) -> float:
    """The most CPUs that each of `n` workers can have so that all fit on the live nodes, each beside `gpus` GPUs.

    A worker lives on one node: three workers on two nodes of 8 CPUs get 4 each, not 16 / 3. 1 where no node has a CPU
    yet (an autoscaled cluster that is still empty).
    """
    nodes = _live_nodes()
    shares = {floor(node.cpus / k * 100) / 100 for node in nodes for k in range(1, n + 1)} - {0.0}
    return max((share for share in shares if places(nodes, share, gpus) >= n), default=1.0)


def cluster_gpus() -> float:
    """GPUs that the cluster has, or may grow to."""
    return total(cluster_nodes())["GPU"]


def check_resources(what: str, count: int, cpus: float, gpus: float) -> None:
    """Refuse what the cluster can never place, which Ray would wait for without end.

    `what` is the config key that holds `count`. Raises UserError naming it.
    """
    check_fits(what, count, {"CPU": cpus, "GPU": gpus}, cluster_nodes())


def cluster_nodes() -> list[Nodes]:
    """The nodes that an autoscaler may bring up, where it can be asked; else those that are live."""
    grown = growth()
    return _live_nodes() if grown is None else list(grown)


def _live_nodes() -> list[Nodes]:
    live = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Nodes(1, each.get("CPU", 0.0), each.get("GPU", 0.0)) for each in live]
