"""`obliviate serve`: the server on this machine or on the cluster, and the same application for `serve deploy`."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from obliviate.aliases import read_aliases
from obliviate.config import build as build_config
from obliviate.config import load
from obliviate.errors import UserError
from obliviate_cli.console import open_console
from obliviate_serve.auth import Role, new_token, read_tokens
from obliviate_serve.errors import ApiError, cause
from obliviate_serve.names import KEY, Names
from obliviate_serve.spec import ServeRun
from obliviate_serve.transport import transport_environment

if TYPE_CHECKING:
    from ray.serve import Application

    from obliviate_serve.backend import Entailment

DRAIN_GRACE_S = 10.0  # beyond limits.drain_s, for the way to the gateway and back
POLL_S = 0.2  # between two looks at what is loading
TROUBLE_S = 1.0  # between two looks at what has gone wrong
ANSWER_S = 5.0  # that the gateway is given to tell it


def serve(path: Path, overrides: list[str], dry_run: bool) -> None:
    """Runs until it is told to stop (SIGINT, SIGTERM), then lets requests under way come to their end."""
    spec, console = load(ServeRun, path, overrides), open_console()
    check(spec)
    if dry_run:
        console.print(yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False))
        for line in outline(spec):
            console.print(line)
        return
    _run(spec, console)


def build(args: Mapping[str, Any]) -> "Application":
    """The application for `serve deploy` and RayService: `import_path: obliviate_cli.serve:build`, args: the config.

    Ray Serve's own config decides host and port there, so no `http.host` of ours says that only this machine can ask:
    raises UserError without a token file.
    """
    spec = build_config(ServeRun, args, where="args")
    if spec.tokens is None:
        raise UserError(
            "args: tokens: is not set, so everybody who reaches Ray Serve's port could ask the models and switch "
            "aliases; set it to a token file (`obliviate serve-token NAME ROLE` prints a line for one)"
        )
    check(spec)
    return _application(spec)


def promote(path: Path, alias: str, model: str, overrides: list[str]) -> None:
    """Let the alias stand for another model, on a server that runs and on one that starts later."""
    spec, console = load(ServeRun, path, overrides), open_console()
    if spec.aliases_file is None:
        raise UserError(f"{path}: aliases_file: is not set; name a file that server and command share")
    try:
        Names(spec).promote(alias, model)
    except ApiError as error:
        raise UserError(f"{path}: {error}") from error
    console.print(f"{alias}: {model}")


def token(name: str, role: str) -> None:
    """Print a new token, which is stored nowhere, and its line for the token file."""
    if role not in list(Role):
        raise UserError(f"{role}: no such role; known: {', '.join(Role)}")
    if len(name.split()) != 1 or "#" in name:
        raise UserError(f"{name!r}: no name for a token; use letters and digits without spaces")
    console, (secret, line) = open_console(), new_token(name, Role(role))
    console.print(f"token (shown this once): {secret}")
    console.print(f"line for the token file: {line}")


def check(spec: ServeRun) -> None:
    """Raises UserError for what could not be served, before anything starts."""
    from obliviate import fit
    from obliviate.models import locate

    for name, served in spec.models.items():
        try:
            located = Path(locate(served.source))
        except UserError as error:
            raise UserError(f"models.{name}: {error}") from error
        if served.adapter_of is None:
            fit.check(served.model.model_copy(update={"max_length": 8}))  # of which serving makes no use
        else:
            _check_base(f"models.{name}.source", located, spec.models[served.adapter_of].source)
    if spec.data is not None:
        spec.data.load()
    if spec.tokens is not None:
        read_tokens(Path(spec.tokens))
    elif not spec.http.loopback:
        raise UserError(
            f"http.host={spec.http.host}: everybody who reaches this machine could ask the models; "
            "set tokens to a token file, or http.host=127.0.0.1"
        )
    if spec.aliases_file is not None:
        read_aliases(Path(spec.aliases_file), KEY)


def _check_base(key: str, adapter: Path, base: str) -> None:
    """Raises UserError for an adapter that was trained on another model. A hub id and a folder may be the same one."""
    from obliviate.fusion import base_of
    from obliviate.models import name_elsewhere

    theirs, ours = base_of(adapter, key), name_elsewhere(base)
    if theirs != ours and Path(theirs).exists() == Path(ours).exists():
        raise UserError(
            f"{key}: {adapter}: was trained on {theirs}, not on {ours}; serve it beside its own base model, or, where "
            "that is the same model elsewhere, say so in its adapter_config.json (base_model_name_or_path)"
        )


def outline(spec: ServeRun) -> list[str]:
    lines = []
    for name, served in spec.models.items():
        engine = spec.engine_of(name)
        if served.adapter_of is not None:
            how = f"an adapter, in the replicas of {served.adapter_of}"
        elif served.on_demand:
            how = "loaded when it is asked"
        else:
            most = max(served.replicas, served.max_replicas or 0)
            how = f"{served.replicas} replica(s)" + (f", up to {most}" if most > served.replicas else "")
        lines.append(f"{name}: {served.source}: {how}; engine {engine.type}, {engine.cpus_per_replica:g} CPUs each")
    lines += [f"{alias}: stands for {model}" for alias, model in spec.aliases.items()]
    who = "everybody on this machine" if spec.tokens is None else f"tokens of {spec.tokens}"
    return [*lines, f"http://{spec.http.host}:{spec.http.port}: for {who}"]


def _run(spec: ServeRun, console: Console) -> None:
    os.environ.update(transport_environment())  # before Ray Serve is imported, and for a cluster that starts here
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray would let every other process go before those of the server
    from ray import serve as ray_serve

    from obliviate.cluster import ensure_ray
    from obliviate_serve.backend import APP

    ensure_ray(spec.address)
    told = _told_to_stop()  # here, because Ray has just set handlers of its own, which end the process at once
    joins = _joins(spec)
    if not joins:
        _check_port(spec)
    application = _application(spec, listens=not joins)
    if not joins:
        ray_serve.start(proxy_location="Disabled", http_options={"host": spec.http.host, "port": spec.http.port})
    try:
        console.print("loading models")
        target = ray_serve.RunTarget(application, name=APP, route_prefix="/")
        (handle,) = ray_serve.run_many(
            [target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False
        )
        loaded = _loaded(told)
        gateway = _from_here(handle)
        if loaded:
            console.print(f"serving on http://{spec.http.host}:{spec.http.port}")
            while not told.wait(TROUBLE_S):
                for line in _trouble(gateway):
                    console.print(line, markup=False, highlight=False)
        # Also where not all is loaded: the gateway answers as soon as a model does, which is known here a little later.
        console.print(f"stopping: requests under way have {spec.limits.drain_s:g} s to come to their end")
        console.print(_drained(gateway, spec.limits.drain_s))
    finally:
        if joins:
            ray_serve.delete(APP)
        else:
            ray_serve.shutdown()


def _joins(spec: ServeRun) -> bool:
    """Whether the cluster has a Ray Serve already, which this server then becomes an application of.

    Raises UserError where that one listens elsewhere, or has no room at /.
    """
    from ray.serve.context import _get_global_client

    from obliviate_serve.backend import APP

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return False
    host, port = client.http_config.host, client.http_config.port
    if (host, port) != (spec.http.host, spec.http.port):
        raise UserError(
            f"http: Ray Serve runs on this cluster already, on {host}:{port}; set http.host={host} and http.port={port}"
            ", or address=local for a cluster of its own"
        )
    for name, served in client.get_serve_details()["applications"].items():
        if name == APP or served["route_prefix"] == "/":
            raise UserError(
                f"address: Ray Serve on this cluster has an application {name} at {served['route_prefix']} already; "
                "stop that one (`obliviate serve`: SIGTERM; `serve deploy`: take it out of its config), or set "
                "address=local for a cluster of its own"
            )
    return True


def _from_here(handle: Any) -> Any:
    """transport_environment() has handles work in the event loop of their caller; here is none, and Ray Serve needs it
    until it is shut down."""
    handle._init(_run_router_in_separate_loop=True)
    return handle


def _trouble(handle: Any) -> list[str]:
    """What the gateway tells of; nothing where it does not answer."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        lines: list[str] = handle.trouble.remote().result(timeout_s=ANSWER_S)
    except (TimeoutError, RayError, RayServeException):
        return []
    return lines


def _drained(handle: Any, drain_s: float) -> str:
    """Let requests under way come to their end. What is to be said of it, whatever the gateway does."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        left = handle.drain.remote(drain_s).result(timeout_s=drain_s + DRAIN_GRACE_S)
    except (TimeoutError, RayError, RayServeException):
        return "the gateway did not answer; what was under way is cut off"
    return f"{left} requests were cut off" if left else "all requests came to their end"


def _application(spec: ServeRun, *, listens: bool = False) -> "Application":
    from obliviate_serve.deploy import application

    return application(spec, None if spec.nli is None else partial(_nli, spec.nli), listens=listens)


def _nli(source: str) -> "Entailment":
    """Made in the judge's process: serving and evaluation do not know each other."""
    from obliviate_eval.judges.nli import NliModel

    model: Callable[..., list[str]] = NliModel(source)
    return model


def _check_port(spec: ServeRun) -> None:
    with socket.socket(socket.AF_INET6 if ":" in spec.http.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((spec.http.host, spec.http.port))
        except OSError as error:
            raise UserError(
                f"http.port={spec.http.port}: {spec.http.host} cannot be listened on ({error.strerror}); choose another"
            ) from error


def _told_to_stop() -> threading.Event:
    """Set by the first signal. A second one interrupts whatever is waited for."""
    told, signals = threading.Event(), (signal.SIGINT, signal.SIGTERM)

    def tell(*_: object) -> None:
        told.set()
        for each in signals:
            signal.signal(each, signal.default_int_handler)

    for each in signals:
        signal.signal(each, tell)
    return told


def _loaded(told: threading.Event) -> bool:
    """Wait until all that is to be loaded at once is; False where the server is told to stop before.

    Raises UserError where a replica could not be made.
    """
    from ray import serve as ray_serve
    from ray.serve.schema import ApplicationStatus

    from obliviate_serve.backend import APP

    while not told.wait(POLL_S):
        found = ray_serve.status().applications.get(APP)
        if found is None:
            raise UserError("address: Ray Serve was stopped on this cluster while the models loaded; start again")
        if found.status == ApplicationStatus.RUNNING:
            return True
        if found.status == ApplicationStatus.DEPLOY_FAILED:
            # A replica's own error is in what is said of its deployment.
            messages = [found.message, *(each.message for each in found.deployments.values())]
            raise UserError("models: " + cause("\n".join(messages)))
    return False
