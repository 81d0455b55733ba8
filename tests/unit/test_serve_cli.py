"""The verbs around serving: configs and their mistakes, plans, aliases, tokens; nothing is started."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

from obliviate.errors import UserError
from obliviate_cli import serve as server
from obliviate_cli.main import app
from obliviate_serve.auth import read_tokens
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
        ("tokens=missing.txt", r"tokens: missing.txt: cannot be read"),
        ("models.second.adapter_of=original", r"models.second.source: .*: no adapter \(no adapter_config.json in it\)"),
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
        server.serve(config, [override], dry_run=True)


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


def test_a_port_that_is_taken(config: Path) -> None:
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
        ("production", "nobody", "nobody: is no model of .*; known: original, second"),
        ("second", "original", "second: is a model's name"),
    ):
        with pytest.raises(UserError, match=message):
            server.promote(config, alias, model)


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
