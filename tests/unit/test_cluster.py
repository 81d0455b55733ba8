"""What a cluster of given nodes can hold, without starting one."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray.exceptions import AuthenticationError

from obliviate import cluster, local_ray
from obliviate.errors import UserError
from obliviate.nodes import Nodes

SetNodes = Callable[..., None]
AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> SetNodes:
    """Call with the live nodes' resources, and what an autoscaler may grow to."""

    def set_nodes(*resources: dict[str, float], growth: tuple[Nodes, ...] | None = None) -> None:
        live = [Nodes(1, each.get("CPU", 0.0), each.get("GPU", 0.0)) for each in resources]
        monkeypatch.setattr(cluster, "_live_nodes", lambda: live)
        monkeypatch.setattr(cluster, "growth", lambda: growth)

    return set_nodes


@pytest.mark.parametrize(
    ("cpus", "n", "share"),
    [
        ([2.0], 1, 2.0),
        ([2.0], 2, 1.0),
        ([2.0], 4, 0.5),
        ([2.0], 3, 0.66),  # 2 / 3 rounded down: three shares must fit
        ([8.0, 8.0], 1, 8.0),  # a worker lives on one node
        ([8.0, 8.0], 3, 4.0),  # 16 / 3 would place one a node
        ([8.0, 4.0], 3, 4.0),  # two on the first, one on the second
        ([0.0, 8.0], 2, 4.0),  # a head node without CPUs
        ([], 2, 1.0),
    ],
)
def test_cores_share(nodes: SetNodes, cpus: list[float], n: int, share: float) -> None:
    nodes(*({"CPU": c} for c in cpus))
    assert cluster.cores_share(n) == share


def test_cores_share_counts_nodes_that_have_the_gpus(nodes: SetNodes) -> None:
    nodes({"CPU": 16.0}, {"CPU": 16.0, "GPU": 2.0})
    assert cluster.cores_share(2) == 16.0
    assert cluster.cores_share(2, gpus=1.0) == 8.0  # both on the second node
    assert cluster.cores_share(4, gpus=0.5) == 4.0


def test_gpus_that_an_autoscaler_can_add_count(nodes: SetNodes) -> None:
    nodes({"CPU": 2.0})
    assert cluster.cluster_gpus() == 0
    nodes({"CPU": 2.0}, growth=(Nodes(2, 32.0, 4.0),))
    assert cluster.cluster_gpus() == 8
    cluster.check_resources("cluster.workers", 8, 8.0, 1.0)


def test_more_workers_than_the_cluster_holds(nodes: SetNodes) -> None:
    nodes({"CPU": 2.0, "GPU": 1.0})
    cluster.check_resources("cluster.workers", 3, 0.66, 0.0)
    with pytest.raises(UserError, match=r"cluster.workers=3: asked for 3 x 1 CPUs, the cluster has 2: lower"):
        cluster.check_resources("cluster.workers", 3, 1.0, 0.0)
    with pytest.raises(UserError, match=r"engine.replicas=2: asked for 2 x 1 GPUs, the cluster has 1: lower"):
        cluster.check_resources("engine.replicas", 2, 1.0, 1.0)


def test_a_worker_lives_on_one_node(nodes: SetNodes) -> None:
    """Two GPUs on two nodes are none for a worker that wants both, and would be waited for without end."""
    nodes({"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 64.0})
    cluster.check_resources("cluster.workers", 2, 4.0, 1.0)
    with pytest.raises(UserError) as caught:
        cluster.check_resources("cluster.workers", 1, 1.0, 2.0)
    assert str(caught.value) == (
        "cluster.workers=1: asked for 1 x 1 CPUs and 2 GPUs, each on one node, and the nodes have room for 0: "
        "lower cluster.workers or what each is given"
    )
    with pytest.raises(UserError, match=r"asked for 2 x 5 CPUs and 1 GPUs, each on one node, .* room for 0: lower"):
        cluster.check_resources("cluster.workers", 2, 5.0, 1.0)  # the many CPUs are where no GPU is


def test_a_share_of_a_gpu_is_of_one(nodes: SetNodes) -> None:
    """Three GPUs hold nine shares of 0.3: what is left of each, 0.1, adds up to nothing that Ray could place."""
    nodes({"CPU": 64.0, "GPU": 3.0})
    cluster.check_resources("concurrency", 9, 1.0, 0.3)
    with pytest.raises(UserError, match=r"concurrency=10: .* the nodes have room for 9: lower concurrency or"):
        cluster.check_resources("concurrency", 10, 1.0, 0.3)
    assert cluster.cores_share(9, gpus=0.3) == 7.11  # 64 / 9
    assert cluster.cores_share(10, gpus=0.3) == 1.0


@pytest.fixture
def init_calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What would have been handed to ray.init, and Ray's environment then; none of it is set before."""
    calls: list[dict[str, object]] = []
    monkeypatch.setattr("ray.init", lambda **keywords: calls.append({**keywords, **ray_environment()}))
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # whatever other tests left connected
    for name in ("RAY_ADDRESS", *AUTHENTICATION):
        monkeypatch.delenv(name, raising=False)
    return calls


def ray_environment() -> dict[str, object]:
    return {name: os.environ[name] for name in AUTHENTICATION if name in os.environ}


@pytest.fixture
def listener() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "127.0.0.1:port", "ray://127.0.0.1:1"])
def test_an_address_where_nothing_answers(init_calls: list[dict[str, object]], address: str) -> None:
    with pytest.raises(UserError, match=f"^cluster.address={address}: no Ray cluster answers there; give"):
        cluster.ensure_ray(address)
    assert init_calls == []


def test_an_address_where_something_listens(init_calls: list[dict[str, object]], listener: str) -> None:
    cluster.ensure_ray(listener)
    assert init_calls[0]["address"] == listener
    assert ray_environment() == {}  # a cluster's own setting is not ours to guess


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            AuthenticationError("no"),
            "the cluster asks for another token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or",
        ),
        (
            RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.1"),
            "Version mismatch: The cluster",
        ),
    ],
)
def test_a_cluster_that_turns_us_away(
    monkeypatch: pytest.MonkeyPatch,
    init_calls: list[dict[str, object]],
    listener: str,
    error: Exception,
    message: str,
) -> None:
    def init(**_: object) -> None:
        raise error

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(UserError) as caught:
        cluster.ensure_ray(listener)
    assert str(caught.value).startswith(f"cluster.address={listener}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("left_behind", [None, "127.0.0.1:1"])
def test_a_new_local_cluster_where_none_runs(
    monkeypatch: pytest.MonkeyPatch, init_calls: list[dict[str, object]], left_behind: str | None
) -> None:
    monkeypatch.setattr(cluster, "find_bootstrap_address", lambda _: left_behind)
    cluster.ensure_ray(None, dashboard=True)
    assert init_calls[0]["address"] == "local"
    assert init_calls[0]["include_dashboard"] is True
    assert init_calls[0]["RAY_AUTH_MODE"] == "token"
    assert ray_environment() == {}  # for the cluster's processes, and nobody else


def test_each_local_cluster_has_a_token_of_its_own(init_calls: list[dict[str, object]]) -> None:
    for _ in range(2):
        cluster.ensure_ray("local")
    first, second = (str(call["RAY_AUTH_TOKEN"]) for call in init_calls)
    assert len(first) == len(second) == 64
    assert first != second


def test_a_cluster_that_runs_here_is_joined(
    monkeypatch: pytest.MonkeyPatch, init_calls: list[dict[str, object]], listener: str
) -> None:
    monkeypatch.setattr(cluster, "find_bootstrap_address", lambda _: listener)
    cluster.ensure_ray(None)
    assert init_calls[0]["address"] is None  # Ray finds it again, and the token it asks for
    assert ray_environment() == {}


@pytest.mark.parametrize(
    ("theirs", "cluster_has"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "disabled"}),
        (
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t" * 40},
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t" * 40},
        ),
        ({"RAY_AUTH_TOKEN_PATH": "/t"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/t"}),
    ],
)
def test_the_users_authentication_stays(
    monkeypatch: pytest.MonkeyPatch,
    init_calls: list[dict[str, object]],
    theirs: dict[str, str],
    cluster_has: dict[str, str],
) -> None:
    for name, value in theirs.items():
        monkeypatch.setenv(name, value)
    cluster.ensure_ray("local")
    assert {name: init_calls[0].get(name) for name in AUTHENTICATION if name in init_calls[0]} == cluster_has
    assert ray_environment() == theirs


SLOW = RuntimeError("Timed out waiting for file\n/tmp/ray/gcs_port")


@pytest.mark.parametrize("slow", [SLOW, Exception("Failed to start a dashboard.")])
def test_a_ray_that_starts_slowly_is_started_again(
    monkeypatch: pytest.MonkeyPatch, init_calls: list[dict[str, object]], slow: Exception
) -> None:
    tries = iter([slow, None])

    def init(**_: object) -> None:
        if (error := next(tries)) is not None:
            raise error

    monkeypatch.setattr("ray.init", init)
    cluster.ensure_ray("local")
    assert next(tries, "none is left") == "none is left"


def test_a_ray_that_does_not_start(monkeypatch: pytest.MonkeyPatch, init_calls: list[dict[str, object]]) -> None:
    """What it has started by then ends, and the environment is as before."""
    left: list[subprocess.Popen[bytes]] = []

    def init(**_: object) -> None:
        left.append(subprocess.Popen(["sleep", "600"]))
        raise SLOW

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(UserError) as caught:
        cluster.ensure_ray("local")
    assert str(caught.value).startswith(
        "cluster.address=local: Ray did not start, twice: Timed out waiting for file /tmp/ray/gcs_port; wait until this"
    )
    assert [process.wait(10) for process in left] == [-9, -9]
    assert ray_environment() == {}


def test_rays_logs_are_where_ray_puts_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert local_ray.logs() == f"{tmp_path}/ray/session_latest/logs"


def test_sigterm_ends_the_process_as_it_did_before(
    monkeypatch: pytest.MonkeyPatch, init_calls: list[dict[str, object]]
) -> None:
    """Ray's own handler aborts it."""

    def init(**_: object) -> None:
        signal.signal(signal.SIGTERM, lambda *_: os.abort())

    monkeypatch.setattr("ray.init", init)
    before = signal.getsignal(signal.SIGTERM)
    cluster.ensure_ray("local")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_node_that_comes_up_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray asks for its node by `get_node`, which raises while there is none, and gives up with a bare Exception."""
    from ray._private import services

    answers = iter([RuntimeError("no node yet"), RuntimeError("no node yet"), {"alive": True}])

    def get_node(*_: str) -> dict[str, bool]:
        answer = next(answers)
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    monkeypatch.setattr(services, "get_node", get_node)
    with local_ray._patience():
        assert services.get_node("127.0.0.1:1", "id") == {"alive": True}
    answers = iter([RuntimeError("no node yet")] * 2)
    monkeypatch.setattr(local_ray, "START_S", 0.0)
    with (
        local_ray._patience(),
        pytest.raises(TimeoutError, match=r"^its node did not come up within 0 s \(no node yet"),
    ):
        services.get_node("127.0.0.1:1", "id")
    assert services.get_node is get_node
