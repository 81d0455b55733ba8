"""A Ray cluster for this process alone: it listens on loopback, and asks for a token that only its own processes have.

Ray binds most of its servers to all addresses unless its node's address is the loopback one, which it allows only where
it takes the machine for one that cannot be part of a cluster (ENABLE_RAY_CLUSTER: off on macOS and Windows).
"""

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psutil
import ray
from ray._common.network_utils import build_address, find_free_port, get_localhost_ip, is_ipv6, is_localhost
from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_constants, services
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled
from ray.exceptions import RaySystemError

from obliviate import plugins
from obliviate.errors import UserError

START_S = 90.0  # Ray itself waits for 30 s, which a busy machine may not have
ATTEMPTS = 2


def start(*, dashboard: bool) -> None:
    """Start a cluster on this machine and connect to it; once more where the first one does not come up in time.

    Raises UserError where the second one does not either.
    """
    for attempt in range(1, ATTEMPTS + 1):
        before = _children()
        try:
            with _environment(_settings()), _replaced(ray_constants, "ENABLE_RAY_CLUSTER", False), _patience():
                forget_token()
                ray.init(
                    address="local",
                    include_dashboard=dashboard,
                    runtime_env=plugins.runtime_env(),
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            return
        except Exception as error:
            # Where its dashboard does not start Ray raises an Exception of no class of its own.
            if not isinstance(error, RuntimeError | TimeoutError | RaySystemError) and type(error) is not Exception:
                raise
            ray.shutdown()
            _kill(_children() - before)
            if attempt == ATTEMPTS:
                raise UserError(
                    f"cluster.address=local: Ray did not start, twice: {' '.join(str(error).split())}; wait until this "
                    f"machine is less busy, or see {logs()}"
                ) from error


def logs() -> str:
    """The folder of Ray's logs: of the cluster that this process belongs to, on whichever node wrote them, else of the
    last one that was to start here."""
    node = ray._private.worker._global_node
    return str(node.get_logs_dir_path()) if node else f"{get_default_ray_temp_dir()}/session_latest/logs"


def forget_token() -> None:
    """Have Ray read its authentication from the environment again, instead of what an earlier cluster's was."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def is_local() -> bool:
    """Whether this process's cluster has the loopback address, so that there is but one node."""
    return bool(is_localhost(ray.util.get_node_ip_address()))


def _settings() -> dict[str, str]:
    """Environment of the cluster's processes; authentication as the user has set it, else by a token of its own.

    What training's workers and engines tell each other outside Ray stays on loopback too. Its processes are told its
    address, for which they would otherwise look among all processes, and give up where they find another cluster's: Ray
    Tune then never frees what stopped trials held.
    """
    host = get_localhost_ip()
    port = find_free_port(socket.AF_INET6 if is_ipv6(host) else socket.AF_INET)
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")  # macOS: lo0
    settings = {
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
        ray_constants.GCS_PORT_ENVIRONMENT_VARIABLE: str(port),
        "RAY_ADDRESS": build_address(host, port),
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
        "VLLM_HOST_IP": host,
    }
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    has_token = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if mode == "token" and not has_token:
        settings["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    return {**settings, "RAY_AUTH_MODE": mode}


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """The environment that the processes inherit which are started in it; this one's is as it was afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _patience() -> Iterator[None]:
    """Wait START_S for each part of Ray. Ray's own wait for its node ends in a bare Exception, this in TimeoutError."""
    find: Callable[..., dict[str, Any]] = services.get_node

    def wait(*arguments: str) -> dict[str, Any]:
        deadline_s = time.monotonic() + START_S
        while True:
            try:
                return find(*arguments)
            except RuntimeError as error:
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"its node did not come up within {START_S:g} s ({error})") from error
                time.sleep(0.1)

    with ExitStack() as stack:
        stack.enter_context(_replaced(services, "get_node", wait))
        stack.enter_context(_replaced(ray_constants, "RAY_DASHBOARD_STARTUP_TIMEOUT_S", START_S))
        stack.enter_context(_environment({"RAY_gcs_server_port_wait_time_s": f"{START_S:.0f}"}))
        yield


@contextmanager
def _replaced(module: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _kill(processes: set[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # it went with another
            process.kill()


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))
