"""The Ray cluster a run works on: connecting to it or starting one, and what of it a worker may have.

Resources are Ray's logical ones (CPUs, GPUs): they decide what is placed where, and nothing enforces them.
"""

import logging
import os
import socket
from collections.abc import Mapping
from math import floor
from urllib.parse import urlsplit

import ray
from ray._private.services import find_bootstrap_address
from ray._private.state import state as ray_state
from ray.exceptions import AuthenticationError

from obliviate.errors import UserError

CONNECT_TIMEOUT_S = 5.0


# OpenMP threads that wait by spinning take the core that the one they wait for needs: beside any other load a training
# step was seen to take ten times as long. Sleeping threads cost nothing that could be measured on an idle machine.
THREADS_WAIT = {"OMP_WAIT_POLICY": "PASSIVE"}


def worker_environment() -> dict[str, str]:
    """Environment of every process that computes; variables that the user has set keep their value."""
    return {name: os.environ.get(name, value) for name, value in THREADS_WAIT.items()}


def ensure_ray(address: str | None, *, dashboard: bool = False) -> None:
    """Connect this process to a cluster, unless it already is connected.

    `address` is host:port, or "local" for a new cluster on this machine; None: RAY_ADDRESS, else the cluster that
    `ray start` left running here, else a new local one. A new one asks nobody for a token unless RAY_AUTH_MODE says
    so: it listens on this machine alone. `dashboard` matters for a new one only (without it Ray Tune cannot free what
    stopped trials held). Raises UserError where nothing answers at the address, and where the cluster turns this
    process away: for its token, or for another version of Ray or of Python.
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
    if address == "local":
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    try:
        ray.init(
            address=address,
            include_dashboard=dashboard if address == "local" else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except AuthenticationError as error:
        raise UserError(
            f"cluster.address={address}: the cluster asks for another token; set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's"
        ) from error
    except RuntimeError as error:
        if not str(error).startswith("Version mismatch"):
            raise
        raise UserError(
            f"cluster.address={address}: {' '.join(str(error).split())}; install the cluster's versions here, or "
            "submit the run as a job (obliviate submit), which needs the same Ray alone"
        ) from error


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
    nodes = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in _live_nodes()]

    def places(share: float) -> int:
        return sum(min(floor(cpus / share), floor(has / gpus) if gpus else n) for cpus, has in nodes)

    shares = {floor(cpus / k * 100) / 100 for cpus, _ in nodes for k in range(1, n + 1)} - {0.0}
    return max((share for share in shares if places(share) >= n), default=1.0)


def cluster_gpus() -> float:
    """GPUs that the cluster has, or may grow to."""
    return capacity()["GPU"]


def check_resources(what: str, count: int, cpus: float, gpus: float) -> None:
    """Refuse what the cluster can never place, which Ray would wait for without end.

    `what` is the config key that holds `count`. Raises UserError naming it.
    """
    has = capacity()
    for resource, each in (("CPU", cpus), ("GPU", gpus)):
        check_capacity(what, count, resource, each, has[resource])
    room = sum(_room(node, cpus, gpus, count) for node in _live_nodes())
    if room < count and not ray_state.get_max_resources_from_cluster_config():
        raise UserError(
            f"{what}={count}: asked for {count} x {cpus:g} CPUs and {gpus:g} GPUs, each on one node, and the cluster's "
            f"nodes have room for {room}: lower {what} or what each is given"
        )


def _room(node: Mapping[str, float], cpus: float, gpus: float, most: int) -> int:
    """How many times a node holds so much, `most` if nothing is asked for; a fraction of a GPU is of one GPU."""
    of_cpus = floor(node.get("CPU", 0.0) / cpus + 1e-6) if cpus else most
    of_gpus = floor(node.get("GPU", 0.0) / max(gpus, 1)) * max(1, floor(1 / gpus + 1e-6)) if gpus else most
    return min(of_cpus, of_gpus)


def check_capacity(what: str, count: int, resource: str, each: float, has: float) -> None:
    """Refuse `count` x `each` of a resource of which the cluster `has` less. Raises UserError."""
    if count * each > has + 1e-6:
        raise UserError(
            f"{what}={count}: asked for {count} x {each:g} {resource}s, the cluster has {has:g}: "
            f"lower {what} or what each is given"
        )


def capacity() -> dict[str, float]:
    """CPUs and GPUs that the live nodes have, or that an autoscaler may add up to."""
    nodes, growth = _live_nodes(), ray_state.get_max_resources_from_cluster_config() or {}
    return {
        resource: float(max(sum(node.get(resource, 0.0) for node in nodes), growth.get(resource, 0)))
        for resource in ("CPU", "GPU")
    }


def _live_nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
