"""What a cluster of given nodes can hold, without starting one."""

import os
import socket
from collections.abc import Callable, Iterator

import pytest
from ray.exceptions import AuthenticationError

from obliviate import cluster
from obliviate.errors import UserError

Nodes = Callable[..., None]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    """Call with the live nodes' resources, and what an autoscaler may grow to."""

    def set_nodes(*resources: dict[str, float], growth: dict[str, int] | None = None) -> None:
        monkeypatch.setattr(cluster, "_live_nodes", lambda: list(resources))
        monkeypatch.setattr(cluster.ray_state, "get_max_resources_from_cluster_config", lambda: growth)

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
def test_cores_share(nodes: Nodes, cpus: list[float], n: int, share: float) -> None:
    nodes(*({"CPU": c} for c in cpus))
    assert cluster.cores_share(n) == share


def test_cores_share_counts_nodes_that_have_the_gpus(nodes: Nodes) -> None:
    nodes({"CPU": 16.0}, {"CPU": 16.0, "GPU": 2.0})
    assert cluster.cores_share(2) == 16.0
    assert cluster.cores_share(2, gpus=1.0) == 8.0  # both on the second node
    assert cluster.cores_share(4, gpus=0.5) == 4.0


def test_gpus_that_an_autoscaler_can_add_count(nodes: Nodes) -> None:
    nodes({"CPU": 2.0})
    assert cluster.cluster_gpus() == 0
    nodes({"CPU": 2.0}, growth={"GPU": 8, "CPU": 64})
    assert cluster.cluster_gpus() == 8
    cluster.check_resources("cluster.workers", 8, 8.0, 1.0)


def test_more_workers_than_the_cluster_holds(nodes: Nodes) -> None:
    nodes({"CPU": 2.0, "GPU": 1.0})
    cluster.check_resources("cluster.workers", 3, 0.66, 0.0)
    with pytest.raises(UserError, match=r"cluster.workers=3: asked for 3 x 1 CPUs, the cluster has 2: lower"):
        cluster.check_resources("cluster.workers", 3, 1.0, 0.0)
    with pytest.raises(UserError, match=r"engine.replicas=2: asked for 2 x 1 GPUs, the cluster has 1: lower"):
        cluster.check_resources("engine.replicas", 2, 1.0, 1.0)


def test_each_must_find_room_on_one_node(nodes: Nodes) -> None:
    """16 CPUs on two nodes hold no trial of 12, and 1.8 of two GPUs not three of 0.6."""
    nodes({"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0})
    cluster.check_resources("concurrency", 4, 4.0, 0.5)
    with pytest.raises(UserError, match=r"concurrency=1: asked for 1 x 12 CPUs and 0 GPUs, each on one node.* for 0:"):
        cluster.check_resources("concurrency", 1, 12.0, 0.0)
    with pytest.raises(UserError, match=r"concurrency=3: .*, and the cluster's nodes have room for 2: lower concurre"):
        cluster.check_resources("concurrency", 3, 1.0, 0.6)
    nodes({"CPU": 8.0}, growth={"CPU": 64})  # nodes of what size is for the autoscaler to say
    cluster.check_resources("concurrency", 1, 12.0, 0.0)


@pytest.fixture
def init_calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What would have been handed to ray.init; RAY_ADDRESS and RAY_AUTH_MODE unset, and put back afterwards."""
    calls: list[dict[str, object]] = []
    monkeypatch.setattr("ray.init", lambda **keywords: calls.append(keywords))
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # whatever other tests left connected
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return calls


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
    assert "RAY_AUTH_MODE" not in os.environ  # a cluster's own setting is not ours to guess


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
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


def test_a_cluster_that_runs_here_is_joined(
    monkeypatch: pytest.MonkeyPatch, init_calls: list[dict[str, object]], listener: str
) -> None:
    monkeypatch.setattr(cluster, "find_bootstrap_address", lambda _: listener)
    cluster.ensure_ray(None)
    assert init_calls[0]["address"] is None  # Ray finds it again, and the token it asks for
    assert "RAY_AUTH_MODE" not in os.environ


def test_the_users_authentication_stays(monkeypatch: pytest.MonkeyPatch, init_calls: list[dict[str, object]]) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    cluster.ensure_ray("local")
    assert os.environ["RAY_AUTH_MODE"] == "token"
