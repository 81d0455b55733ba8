"""What `obliviate submit` finds out before there is a job: from the config, and from a dashboard made up here."""

import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from aiohttp import ServerDisconnectedError
from ray.job_submission import JobStatus
from rich.console import Console

from obliviate.config import UnlearnRun, load
from obliviate.errors import UserError
from obliviate.nodes import Nodes
from obliviate_cli.jobs import follow
from obliviate_cli.jobs.client import connect, explained, use_token
from obliviate_cli.jobs.follow import attach
from obliviate_cli.jobs.needs import Need, check_fits, needs
from obliviate_cli.jobs.submit import check_paths, check_room, grown_nodes, live_nodes, runtime_env
from obliviate_recipes.catalogue import RECIPES, recipe_of

ROOT = Path(__file__).parents[2]
UNLEARN = {"model": {"source": "m"}, "data": {"type": "fictitious"}, "method": "ga", "runs": "/mnt/shared/runs"}
SWEEP = {
    "model": {"source": "m"}, "data": {"type": "fictitious"}, "runs": "s3://bucket/runs", "concurrency": 3,
    "space": {"methods": {"ga": {}}, "shared": {"optim.learning_rate": [1e-5]}},
}  # fmt: skip


def write(folder: Path, values: dict[str, Any], name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.name)
def test_every_ready_config_tells_its_verb(path: Path) -> None:
    """Each names, in a comment, the command that runs it. Serving and requests are no jobs."""
    verbs = {line.split()[2] for line in path.read_text().splitlines() if line.startswith("#   obliviate ")}
    if verbs <= set(RECIPES):
        assert recipe_of(path) in verbs


def test_a_base_tells_as_well(tmp_path: Path) -> None:
    write(tmp_path, SWEEP, "base.yaml")
    assert recipe_of(write(tmp_path, {"base": "base.yaml", "title": "mine"})) == "sweep"


def test_a_config_that_does_not_tell(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no key tells which verb it is for; say --verb, one of attack, compare,"):
        recipe_of(write(tmp_path, {"model": {"source": "m"}}))


def check(tmp_path: Path, values: dict[str, Any], name: str = "run.yaml") -> None:
    path = write(tmp_path, values, name)
    check_paths(load(RECIPES[recipe_of(path)].load().takes, path), path, tmp_path)


def test_a_config_outside_of_the_working_directory(tmp_path: Path) -> None:
    path = write(tmp_path, UNLEARN)
    (tmp_path / "checkout").mkdir()
    with pytest.raises(UserError, match=rf"^{path}: is not in the working directory {tmp_path}/checkout, which is"):
        check_paths(load(UnlearnRun, path), path, tmp_path / "checkout")


def test_a_base_outside_of_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "checkout").mkdir()
    write(tmp_path, UNLEARN, "base.yaml")
    path = write(tmp_path / "checkout", {"base": "../base.yaml"})
    with pytest.raises(UserError, match=r"base.yaml: is not in the working directory"):
        check_paths(load(UnlearnRun, path), path, tmp_path / "checkout")


@pytest.mark.parametrize("ignore", [".gitignore", "mine/.gitignore", "mine/.rayignore"])
def test_a_config_that_does_not_go_along(tmp_path: Path, ignore: str) -> None:
    """Ray leaves out of the working directory what ignore files name, of every folder on the way."""
    (tmp_path / "mine").mkdir()
    path = write(tmp_path / "mine", UNLEARN)
    check_paths(load(UnlearnRun, path), path, tmp_path)
    (tmp_path / ignore).write_text("run.*\n")
    with pytest.raises(UserError, match=rf"^{path}: does not go along with the job, for a .gitignore or .rayignore "):
        check_paths(load(UnlearnRun, path), path, tmp_path)


def test_runs_that_would_go_with_the_cluster(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^runs: runs is a relative path: .*runs=s3://bucket/runs"):
        check(tmp_path, UNLEARN | {"runs": "runs"})
    check(tmp_path, UNLEARN)
    check(tmp_path, UNLEARN | {"runs": "gs://bucket/runs"})


def test_an_address_of_another_cluster(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^cluster.address: local: a job runs on the cluster .*: cluster.address=null"):
        check(tmp_path, UNLEARN | {"cluster": {"address": "local"}})
    evaluate = {"models": {"a": {"source": "m"}}, "data": {"type": "fictitious"}, "runs": "/r", "address": "local"}
    with pytest.raises(UserError, match=r"^address: local: "):
        check(tmp_path, evaluate)


def needed(tmp_path: Path, values: dict[str, Any]) -> list[Need]:
    path = write(tmp_path, values)
    return needs(load(RECIPES[recipe_of(path)].load().takes, path))


def test_what_is_left_out_is_decided_on_the_cluster(tmp_path: Path) -> None:
    assert needed(tmp_path, UNLEARN) == []
    check_fits(load(UnlearnRun, write(tmp_path, UNLEARN)), [])


def test_what_is_asked_for(tmp_path: Path) -> None:
    """Two workers of a GPU; a replica whose model is split over four: each names the key to change."""
    asked = UNLEARN | {
        "cluster": {"workers": 2, "gpus_per_worker": 1},
        "alternatives": {"engine": {"tensor_parallel": 4, "cpus_per_replica": 8}},
    }
    assert needed(tmp_path, asked) == [
        Need("cluster.workers", 2, {"CPU": 0.0, "GPU": 1.0}),
        Need("alternatives.engine.replicas", 1, {"CPU": 8.0, "GPU": 4.0}),
    ]
    run = load(UnlearnRun, write(tmp_path, asked))
    check_fits(run, [Nodes(1, 8.0, 4.0)])
    with pytest.raises(UserError, match=r"^cluster.workers=2: asked for 2 x 1 GPUs, the cluster has 1: lower"):
        check_fits(run, [Nodes(1, 64.0, 1.0)])
    with pytest.raises(UserError, match=r"^alternatives.engine.replicas=1: asked for 1 x 8 CPUs, the cluster has 2:"):
        check_fits(run, [Nodes(1, 2.0, 8.0)])
    with pytest.raises(UserError, match=r"^alternatives.engine.replicas=1: asked for 1 x 8 CPUs and 4 GPUs, each on "):
        check_fits(run, [Nodes(4, 64.0, 2.0)])


def test_a_place_for_the_command(tmp_path: Path) -> None:
    """A job whose command fits on no node would be pending without end, and say nothing."""
    run = load(UnlearnRun, write(tmp_path, UNLEARN))
    check_room(run, None, [Nodes(1, 0.0, 0.0)])
    check_room(run, 8.0, [Nodes(1, 0.0, 0.0), Nodes(4, 8.0, 0.0)])
    with pytest.raises(UserError, match=r"^--driver-cpus 9: no node of the cluster has so many CPUs; lower it, or"):
        check_room(run, 9.0, [Nodes(1, 0.0, 0.0), Nodes(4, 8.0, 0.0)])


def test_a_sweep_trains_several_at_a_time(tmp_path: Path) -> None:
    values = SWEEP | {"cluster": {"workers": 2, "gpus_per_worker": 1}}
    assert needed(tmp_path, values)[0] == Need("concurrency", 6, {"CPU": 0.0, "GPU": 1.0})


def test_the_job_has_this_code_and_its_revision() -> None:
    environment = runtime_env(ROOT)
    assert environment["py_modules"] == [
        str(ROOT / part)
        for part in (
            "platform/obliviate",
            "platform/obliviate_recipes",
            "platform/obliviate_cli",
            "evaluation/obliviate_eval",
            "serve/obliviate_serve",
        )
    ]
    assert environment["working_dir"] == str(ROOT)


Dashboard = Callable[[int, dict[str, Any]], str]


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dashboard]:
    """Call with the status and the JSON that every request gets; the URL."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # put back afterwards
    servers: list[ThreadingHTTPServer] = []

    def serve(status: int, answer: dict[str, Any]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def version(number: str) -> dict[str, str]:
    return {"version": "4", "ray_version": number, "ray_commit": "", "session_name": ""}


def test_a_cluster_of_the_same_version(dashboard: Dashboard) -> None:
    address = dashboard(200, version(ray.__version__))
    assert connect(address).get_address() == address


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (
            200,
            version("2.9.1"),
            f"the cluster runs Ray 2.9.1, and here is Ray {ray.__version__}; install Ray 2.9.1 here",
        ),
        (401, {}, "the cluster asks for a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or"),
        (403, {}, "the token is refused; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or"),
        (404, {}, "the cluster's jobs API answers with an error: Version check returned 404"),
        (500, {}, "the cluster's jobs API answers with an error: 500"),
        (200, {"hello": "world"}, "the cluster's jobs API answers with an error: 'ray_version'"),
    ],
)
def test_a_cluster_that_is_another_or_none(
    dashboard: Dashboard, status: int, answer: dict[str, str], message: str
) -> None:
    address = dashboard(status, answer)
    with pytest.raises(UserError) as caught:
        connect(address)
    assert str(caught.value).startswith(f"--address {address}: {message}")
    assert "\n" not in str(caught.value)


def test_a_cluster_that_cannot_say_what_it_has(dashboard: Dashboard) -> None:
    """The state API has exceptions of its own."""
    address = dashboard(200, {"result": False, "msg": "no answer from the GCS"})
    with pytest.raises(UserError) as caught, explained(address):
        live_nodes(SimpleNamespace(get_address=lambda: address))
    assert str(caught.value).startswith(
        f"--address {address}: the cluster's jobs API answers with an error: API server "
    )
    assert str(caught.value).endswith("no answer from the GCS")


class Lost:
    """A client whose connection breaks while the job's output is read."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def get_job_status(self, job: str) -> str:
        return "RUNNING"

    def get_job_info(self, job: str) -> SimpleNamespace:
        return SimpleNamespace(status="RUNNING")

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield "one line\n"
        raise self.error


@pytest.mark.parametrize("error", [ServerDisconnectedError(), RuntimeError("WebSocket"), ConnectionResetError("gone")])
def test_a_connection_that_is_lost(error: Exception) -> None:
    with pytest.raises(
        UserError, match=r"^job j: connection lost \(.*\); it goes on: obliviate attach j --address http"
    ):
        attach(Lost(error), "j", "http://127.0.0.1:8265", Console(quiet=True))


class Waiting:
    """A client whose job waits for a place, and is stopped then."""

    def __init__(self, looks: int) -> None:
        self.looks, self.message = looks, "Job has not started yet. It may be\nwaiting for resources."

    def get_job_status(self, job: str) -> str:
        return "PENDING"

    def get_job_info(self, job: str) -> SimpleNamespace:
        self.looks -= 1
        status = JobStatus.PENDING if self.looks > 0 else JobStatus.STOPPED
        return SimpleNamespace(status=status, message=self.message, driver_exit_code=None)

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        for line in ():
            yield line


def test_what_a_job_waits_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "NOTICE_S", 0.0)
    monkeypatch.setattr(follow, "POLL_S", 0.001)
    console = Console(file=StringIO(), width=200)
    assert attach(Waiting(3), "j", "http://127.0.0.1:8265", console) == 1
    told = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert told[0] == "job j: waits: Job has not started yet. It may be waiting for resources."


class Asked:
    """A client whose jobs are interrupted while their output is read."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}

    def submit_job(self, **_: object) -> str:
        self.jobs["asks"] = "RUNNING"
        return "asks"

    def get_job_info(self, job: str) -> SimpleNamespace:
        if self.jobs[job] == "RUNNING":
            raise KeyboardInterrupt
        return SimpleNamespace(status=JobStatus.STOPPED, message="")

    def stop_job(self, job: str) -> None:
        self.jobs[job] = "STOPPED"

    def delete_job(self, job: str) -> None:
        del self.jobs[job]


def test_no_job_is_left_of_what_is_only_asked() -> None:
    client = Asked()
    with pytest.raises(KeyboardInterrupt):
        grown_nodes(client)
    assert client.jobs == {}


def test_an_address_where_nothing_answers() -> None:
    with pytest.raises(UserError, match=r"^--address http://127.0.0.1:1: nothing answers there; give the URL of"):
        connect("http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"^--address 127.0.0.1:8265: is no URL; give that of the cluster's dashboard"):
        connect("127.0.0.1:8265")


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ({}, None),
        ({"RAY_AUTH_TOKEN": "t"}, "token"),
        ({"RAY_AUTH_TOKEN_PATH": "/run/token"}, "token"),
        ({"RAY_AUTH_TOKEN": "t", "RAY_AUTH_MODE": "disabled"}, "disabled"),
    ],
)
def test_a_token_is_sent_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, str], mode: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    use_token()
    assert os.environ.get("RAY_AUTH_MODE") == mode


def test_a_token_file_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("t")
    use_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"
