"""The Ray cluster a run works on: connecting to it or starting one, and what of it a worker may have.

Resources are Ray's logical ones (CPUs, GPUs): they decide what is placed where, and nothing enforces them.
"""

import logging
import os
from math import floor

import ray
from ray._private.state import state as ray_state

from obliviate.errors import UserError


def ensure_ray(address: str | None, *, dashboard: bool = False) -> None:
    """Connect this process to a cluster, unless it already is connected.

    `address` None: RAY_ADDRESS, else a cluster that runs on this machine, else a new local one; "local" always starts
    a new one. A new one has no token authentication unless RAY_AUTH_MODE asks for it: it listens on this machine
    alone. `dashboard` matters for a new one only (Ray Tune cannot free stopped trials without it).
    Raises UserError where nothing answers at the address.
    """
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None and not _joined("auto"):
        address = "local"
    if address == "local":
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        ray.init(address="local", include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
    elif address is not None and not _joined(address):
        raise UserError(
            f"cluster.address={address}: no Ray cluster answers there; start one with `ray start --head`, "
            "or leave cluster.address and RAY_ADDRESS out for a local one"
        )


def _joined(address: str) -> bool:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError:
        return False
    return True


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
    return _capacity("GPU")


def check_resources(what: str, count: int, cpus: float, gpus: float) -> None:
    """Refuse what the cluster can never place, which Ray would wait for without end.

    `what` is the config key that holds `count`. Raises UserError naming it.
    """
    for resource, each in (("CPU", cpus), ("GPU", gpus)):
        capacity = _capacity(resource)
        if count * each > capacity + 1e-6:
            raise UserError(
                f"{what}={count}: asked for {count} x {each:g} {resource}s, the cluster has {capacity:g}: "
                f"lower {what} or what each is given"
            )


def _live_nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _capacity(resource: str) -> float:
    """What the live nodes have, or what an autoscaler may add up to."""
    growth = ray_state.get_max_resources_from_cluster_config() or {}
    return float(max(sum(node.get(resource, 0.0) for node in _live_nodes()), growth.get(resource, 0)))
