"""A hosted model, as evaluation asks it: what can be measured from outside, and what a server does not give."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from obliviate.data.rows import Corpus
from obliviate.errors import UserError
from obliviate.inference.endpoint import EndpointEngine
from obliviate.inference.limits import context_limit
from obliviate.inference.server import Server
from obliviate.models import load_config
from obliviate.schema import EngineSpec, HostedSpec, ModelSpec
from obliviate_eval.asked import suite_of
from obliviate_eval.records import SCORED, Probe
from obliviate_eval.spec import EvaluationSpec
from obliviate_recipes.stages.cautions import scores

if TYPE_CHECKING:
    from obliviate.inference.pool import Progress

INSIDE = frozenset({Probe.MOMENTS, Probe.GRADIENT_NORM})
SCORES = frozenset(SCORED) - INSIDE


def opened(
    servers: "dict[HostedSpec, Server]", model: ModelSpec, engine: EngineSpec, on_progress: "Progress | None" = None
) -> EndpointEngine:
    """On the endpoint's one server. Raises UserError for one that does not answer as it should."""
    assert model.endpoint is not None
    if model.endpoint not in servers:
        servers[model.endpoint] = Server(model.endpoint)
    return EndpointEngine.open(model, engine, servers[model.endpoint], on_progress)


def require_outside(corpus: Corpus, spec: EvaluationSpec) -> None:
    """Raises UserError where the suite measures what only a model's weights tell."""
    names = ", ".join(_needing(corpus, spec, INSIDE))
    if names:
        suite = suite_of(spec).name
        raise UserError(
            f"evaluation.suite: {suite}: {names} need a model's weights, and a hosted model (model.endpoint) shows "
            "none; take another suite, or one of your own without them"
        )


def warnings(
    engine: EndpointEngine, endpoint: HostedSpec, corpus: Corpus, spec: EvaluationSpec, *, told: set[str]
) -> list[str]:
    """Where the server gives no log-probabilities, what will score nothing; each metric is `told` of once."""
    names = [
        name for name in _needing(corpus, spec, SCORES, unscored=True) if f"{endpoint.base_url} {name}" not in told
    ]
    if not names or engine.scores:
        return []
    told.update(f"{endpoint.base_url} {name}" for name in names)
    return [
        f"model.endpoint: {endpoint.model} at {endpoint.base_url} gives no log-probabilities of given texts: "
        f"{', '.join(names)} will score nothing; ask a server that does (`echo` with `logprobs`, or vLLM's "
        "`prompt_logprobs`)"
    ]


def refusals(server: Server) -> list[str]:
    """A warning where prompts were refused since it was last asked for one."""
    refused, server.refused = server.refused, []
    if not refused:
        return []
    return [
        f"{len(refused)} texts were refused for good, and count as empty answers or as unscored: a filter that lets no "
        f"question through says nothing of what the model knows. The first: {refused[0]}"
    ]


def longest(model: ModelSpec, engine: EngineSpec) -> int:
    """Tokens of prompt and answer together. How many positions a hosted model has, its server knows."""
    return engine.max_model_len if model.endpoint is not None else context_limit(engine, load_config(model))


def _needing(
    corpus: Corpus, spec: EvaluationSpec, probes: frozenset[Probe], *, unscored: bool = False
) -> Iterator[str]:
    """The types of what the suite measures with any of these probes on the corpus; `unscored`: and cannot measure
    without log-probabilities."""
    suite, found = suite_of(spec), dict[str, None]()
    for each in corpus.evaluation:
        if each.rows:
            metrics = (one for one in suite.metrics_of(each.name, each.role) if one.needs_of(each.role) & probes)
            found |= {one.type: None for one in metrics if not (unscored and scores(one, each, logp=False))}
            asking = (one for one in suite.comparisons if one.asks(each.name, each.role))
            found |= {one.type: None for one in asking if one.probes & probes}
    yield from found
