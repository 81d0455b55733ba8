"""The server as a Ray Serve application: a gateway with the web application, and replicas of every model behind it."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig

from obliviate.cluster import cluster_nodes, worker_environment
from obliviate.errors import UserError
from obliviate.inference.choice import chosen
from obliviate.inference.vllm import vllm_environment
from obliviate.models import portable
from obliviate.nodes import check_total
from obliviate_serve.app import create_app
from obliviate_serve.backend import Entailment, Pair, ServeBackend
from obliviate_serve.listen import listen
from obliviate_serve.replica import Loading, Replica, on_demand_replica
from obliviate_serve.spec import ServedModelSpec, ServeRun, ServingEngineSpec
from obliviate_serve.transport import listen_where_the_node_does, transport_environment
from obliviate_serve.trouble import Trouble

GATEWAY_CPUS = 0.1  # it waits more than it works; Ray's CPUs only decide what is placed where
HEAD_NODE = {"node:__internal_head__": 0.001}  # Ray's name for it, a share that keeps nobody else away
GATEWAY_REQUESTS = 10_000  # at once: the gateway has limits of its own
HEALTH_PERIOD_S = 2.0


@serve.ingress()
class Gateway:
    """One process, so that limits, metrics and comparisons are exact. Ray Serve starts it again where it dies."""

    def __init__(
        self, spec: ServeRun, models: Mapping[str, Any], on_demand: Any | None, judge: Any | None, listens: bool
    ) -> None:
        listen_where_the_node_does()
        self._trouble = Trouble()
        logging.getLogger("obliviate_serve").addHandler(self._trouble)
        self._app = create_app(spec, ServeBackend(models, on_demand, judge, spec.limits.start_s))
        self._server = listen(self._app, spec.http, spec.limits) if listens else None

    def __serve_build_asgi_app__(self) -> Any:
        return self._app

    def check_health(self) -> None:
        """Ray Serve asks now and then, and starts a gateway again that raises."""
        if self._server is not None and self._server.done():
            raise RuntimeError("the HTTP server has ended")

    def trouble(self) -> list[str]:
        """What has gone wrong since the last time, for the operator's eyes."""
        return self._trouble.take()

    async def drain(self, timeout_s: float) -> int:
        """Take no more requests, and wait for those under way. Returns how many were not done in time."""
        self._app.draining = True
        deadline_s = time.monotonic() + timeout_s
        while self._app.under_way and time.monotonic() < deadline_s:
            await asyncio.sleep(0.05)
        return self._app.under_way


class Judge:
    """The NLI model, in a process of its own. `make` is called there."""

    def __init__(self, make: Callable[[], Entailment]) -> None:
        listen_where_the_node_does()
        self._judge = make()

    def judge(self, pairs: Sequence[Pair]) -> list[str]:
        return self._judge(pairs)


@dataclass(frozen=True)
class Placed:
    """The engine that a spec comes to on this cluster."""

    engine: ServingEngineSpec  # `type` is "vllm" or "hf"
    gpus: float


def application(
    spec: ServeRun, judge: Callable[[], Entailment] | None = None, *, listens: bool = False
) -> serve.Application:
    """Needs Ray. `judge`: makes what judges entailment. Raises UserError for models that are not there.

    `listens`: the gateway takes connections itself, on the cluster's head node, beside what Ray Serve's proxies bring.
    """
    _check_resources(spec)
    models = {name: _always_loaded(spec, name) for name in spec.resident}
    on_demand = _on_demand(spec)
    judging = None if judge is None else _deployment(Judge, "judge", 0.1, 0.0).bind(judge)
    gateway = serve.deployment(
        Gateway,
        name="gateway",
        max_ongoing_requests=GATEWAY_REQUESTS,
        health_check_period_s=HEALTH_PERIOD_S,
        graceful_shutdown_timeout_s=spec.limits.drain_s,
        ray_actor_options={
            **({"num_cpus": 0, "resources": HEAD_NODE} if listens else {"num_cpus": GATEWAY_CPUS}),
            "runtime_env": {"env_vars": worker_environment() | transport_environment()},
        },
    )
    return gateway.bind(spec.with_absolute_paths(), models, on_demand, judging, listens)


def _check_resources(spec: ServeRun) -> None:
    """Ray Serve would wait without end for replicas that never fit."""
    placed = [(place(spec.engine_of(name)), spec.models[name].replicas) for name in spec.resident]
    if spec.loads_on_demand:
        placed.append((place(spec.engine), spec.on_demand.replicas))
    cpus = sum(each.engine.cpus_per_replica * replicas for each, replicas in placed) + GATEWAY_CPUS
    gpus = sum(each.gpus * replicas for each, replicas in placed)
    check_total("models", 1, {"CPU": cpus, "GPU": gpus}, cluster_nodes())


def _always_loaded(spec: ServeRun, name: str) -> serve.Application:
    served, loading, gpus = spec.models[name], *_loading(spec, name)
    if served.max_replicas is not None and served.max_replicas > served.replicas:
        scale: dict[str, Any] = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=served.replicas,
                max_replicas=served.max_replicas,
                target_ongoing_requests=served.target_requests,
            )
        }
    else:
        scale = {"num_replicas": served.replicas}
    options = _options(spec, loading.engine, gpus)
    return serve.deployment(Replica, name=f"model-{name}", **scale, **options).bind(loading)


def _on_demand(spec: ServeRun) -> serve.Application | None:
    """None where nothing is ever loaded on demand."""
    if not spec.loads_on_demand:
        return None
    known = {name: _loading(spec, name)[0] for name, each in spec.models.items() if each.on_demand}
    placed = place(spec.engine)
    anything = ServedModelSpec(source="")
    unknown = Loading(anything.model, placed.engine, {}, spec.limits.prompt_tokens, spec.limits.new_tokens)
    replica = on_demand_replica(spec.on_demand.models_per_replica)
    options = _options(spec, placed.engine, placed.gpus)
    deployment = serve.deployment(replica, name="on-demand", num_replicas=spec.on_demand.replicas, **options)
    return deployment.bind(known, unknown, spec.limits.start_s)


def _options(spec: ServeRun, engine: ServingEngineSpec, gpus: float) -> dict[str, Any]:
    vllm = vllm_environment(gpus > 0) if engine.type == "vllm" else {}
    if engine.batch_invariant:
        vllm["VLLM_BATCH_INVARIANT"] = "1"  # of no effect on transformers, which batches no requests
    return {
        "max_ongoing_requests": engine.max_requests,
        "max_queued_requests": spec.limits.queued_requests,
        "health_check_period_s": HEALTH_PERIOD_S,
        "graceful_shutdown_timeout_s": spec.limits.drain_s,
        "ray_actor_options": {
            "num_cpus": engine.cpus_per_replica,
            "num_gpus": gpus,
            "runtime_env": {"env_vars": worker_environment() | transport_environment() | vllm},
        },
    }


def _deployment(kind: type, name: str, cpus: float, gpus: float) -> serve.Deployment:
    options = {
        "num_cpus": cpus,
        "num_gpus": gpus,
        "runtime_env": {"env_vars": worker_environment() | transport_environment()},
    }
    return serve.deployment(kind, name=name, ray_actor_options=options)


def _loading(spec: ServeRun, name: str) -> tuple[Loading, float]:
    """How the model is loaded, and the GPUs that it takes. Raises UserError where it is not there."""
    served, placed = spec.models[name], place(spec.engine_of(name))
    try:
        model = portable(served.model)
        adapters = {each: portable(adapter.model).source for each, adapter in spec.adapters_of(name).items()}
    except UserError as error:
        raise UserError(f"models.{name}: {error}") from error
    limits = spec.limits
    return Loading(model, placed.engine, adapters, limits.prompt_tokens, limits.new_tokens), placed.gpus


def place(engine: ServingEngineSpec) -> Placed:
    """Raises UserError for an engine that is not installed, or cannot do what is asked."""
    placed = Placed(*chosen(engine))
    if engine.batch_invariant and placed.engine.type == "vllm" and not placed.gpus:
        raise UserError(
            "engine.batch_invariant: vLLM has it on GPUs only; set engine.type=hf, which batches no requests, or leave "
            "it out and probe with `deterministic`"
        )
    return placed
