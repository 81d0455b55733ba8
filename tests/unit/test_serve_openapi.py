"""Requests made from the server's own OpenAPI document, well formed and not: none is answered with a 5xx."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

from obliviate_serve.app import create_app
from serving import FakeBackend, serve_run

OPERATIONS = [
    "GET /v1/models", "GET /v1/models/{id_}", "POST /v1/completions", "POST /v1/chat/completions",
    "POST /v1/responses", "POST /tokenize", "POST /detokenize",
    "GET /v1/attacks", "POST /v1/probe", "POST /v1/render",
    "POST /v1/compare", "GET /v1/compare/{id_}", "DELETE /v1/compare/{id_}",
    "GET /v1/compare/{id_}/table", "GET /v1/compare/{id_}/questions/{index}",
    "GET /v1/questions", "GET /v1/questions/{name}", "POST /v1/questions",
    "GET /v1/aliases", "PUT /v1/aliases/{name}", "DELETE /v1/aliases/{name}", "GET /healthz",
    "GET /readyz", "GET /metrics",
]  # fmt: skip


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> schemathesis.BaseSchema:
    folder = tmp_path_factory.mktemp("openapi")
    spec = serve_run(folder, http={"allowed_hosts": ["*"]}, aliases_file=str(folder / "aliases.json"))
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(spec, FakeBackend()))


def test_every_operation_is_tried(api: schemathesis.BaseSchema) -> None:
    assert sorted(each.ok().label for each in api.get_all_operations()) == sorted(OPERATIONS)


@pytest.mark.parametrize(
    ("label", "mode"),
    [
        *((label, GenerationMode.POSITIVE) for label in OPERATIONS),
        *((label, GenerationMode.NEGATIVE) for label in OPERATIONS if label.startswith(("POST", "PUT"))),
    ],
)
def test_no_server_error(api: schemathesis.BaseSchema, label: str, mode: GenerationMode) -> None:
    operation = next(each.ok() for each in api.get_all_operations() if each.ok().label == label)

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=25, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def try_it(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=[not_a_server_error])

    try_it()
