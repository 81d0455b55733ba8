"""The web application: routes, errors in OpenAI's shape, the page, health and metrics, and the guard around all."""

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from obliviate_serve import compare, openai, probing, responses, sets, tokens
from obliviate_serve.api import AliasList, AliasRequest, ErrorBody, Health
from obliviate_serve.audit import Journal
from obliviate_serve.auth import Tokens
from obliviate_serve.backend import Backend
from obliviate_serve.errors import ApiError, EngineDiedError
from obliviate_serve.guard import Guard
from obliviate_serve.names import Names
from obliviate_serve.server import Server
from obliviate_serve.sets import Sets
from obliviate_serve.spec import ServeRun

WEB = Path(__file__).with_name("web")


def create_app(spec: ServeRun, backend: Backend) -> Guard:
    """An ASGI application. Raises UserError for a token file that cannot be read."""
    server = Server(spec, Names(spec), backend, Journal(spec))
    app = FastAPI(title="Obliviate", description=__doc__, docs_url=None, redoc_url=None)
    known = None if spec.tokens is None else Tokens(Path(spec.tokens))
    guard = Guard(app, spec, known, server.metrics, server.journal)
    for part in (openai, responses, tokens, probing):
        app.include_router(part.routes(server))
    questions = Sets(spec.data)
    for asking in (sets, compare):
        app.include_router(asking.routes(server, questions))
    _add_aliases(app, server)
    _add_operations(app, server, guard)
    _add_errors(app)
    _add_page(app)
    return guard


def _add_aliases(app: FastAPI, server: Server) -> None:
    @app.get("/v1/aliases", responses=openai.ERRORS)
    async def aliases() -> AliasList:
        return AliasList(aliases=server.names.aliases)

    @app.put("/v1/aliases/{name}", responses={**openai.ERRORS, 409: openai.ERRORS[400]})
    async def promote(name: str, asked: AliasRequest, http: Request) -> AliasList:
        """Let the alias stand for another model of the config, from the next request on."""
        server.journal.asked(http.state.record, [asked.model], [], alias={name: asked.model})
        server.names.promote(name, asked.model)
        return AliasList(aliases=server.names.aliases)

    @app.delete("/v1/aliases/{name}", responses={**openai.ERRORS, 409: openai.ERRORS[400]})
    async def forget(name: str, http: Request) -> AliasList:
        """Take an alias back; one of the config then stands for what the config says."""
        server.journal.asked(http.state.record, [], [], alias={name: None})
        server.names.forget(name)
        return AliasList(aliases=server.names.aliases)


def _add_operations(app: FastAPI, server: Server, guard: Guard) -> None:
    @app.get("/healthz")
    async def healthz() -> Health:
        """The gateway lives."""
        return Health(status="ok")

    @app.get("/readyz", responses={503: {"model": Health}})
    async def readyz(http: Request, response: Response) -> Health:
        """All models that are always loaded can answer, and the server isn't about to stop. Only callers see names."""
        models = dict(await server.backend.ready())
        ready = all(models.values())
        status = "draining" if guard.draining else "ok" if ready else "loading"
        response.status_code = 200 if status == "ok" else 503
        return Health(status=status, models=models if hasattr(http.state, "caller") else {})

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """In Prometheus's text format."""
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    """Routes and no mount: one at / would answer for what other routes have under another method."""
    files = StaticFiles(directory=WEB)  # gives nothing from outside its folder

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    @app.api_route("/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def part(request: Request, name: str = "index.html") -> Response:
        return await files.get_response(name, request.scope)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def told(request: Request, error: ApiError) -> JSONResponse:
        headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
        return _response(error.status, error.body, headers)

    @app.exception_handler(EngineDiedError)
    async def died(request: Request, error: EngineDiedError) -> JSONResponse:
        return _response(503, ErrorBody(message=str(error), type="model_unavailable"), {"retry-after": "10"})

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _response(400, _first_mistake(error), {})

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
        message = f"{request.method} {request.url.path}: {error.detail}"
        body = ErrorBody(message=message, type="invalid_request_error", code=code)
        return _response(error.status_code, body, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        body = ErrorBody(message="the server made a mistake; its log says which", type="server_error")
        return _response(500, body, {})


def _response(status: int, body: ErrorBody, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse({"error": body.model_dump()}, status, headers)


def _first_mistake(error: RequestValidationError) -> ErrorBody:
    """The key and what is wrong with it. The value is not repeated: it may be a megabyte, or no text at all."""
    mistakes = error.errors()
    first = min(mistakes, key=lambda each: each["type"] != "extra_forbidden")  # often the one that another error misses
    if first["type"] == "json_invalid":
        return ErrorBody(message=f"the body is no JSON: {first['ctx']['error']}", type="invalid_request_error")
    keys = [str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier()][1:]
    key = ".".join(keys) or None
    # What may be of several kinds is wrong in a way for each of them.
    ways = dict.fromkeys(each["msg"] for each in mistakes if each["loc"][:2] == first["loc"][:2])
    wrong = " or ".join(ways).removeprefix("Value error, ")[:500]
    if first["type"] == "extra_forbidden":
        wrong = "unknown parameter"
    message = f"{key}: {wrong}" if key else wrong
    return ErrorBody(message=message, type="invalid_request_error", param=key, code=first["type"])
