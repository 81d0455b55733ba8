"""Who may ask, how much, and what is written down of it."""

import asyncio
import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from obliviate.errors import UserError
from obliviate_serve.auth import Role, Tokens, new_token, read_tokens
from obliviate_serve.engine import Prompted
from obliviate_serve.spec import HttpSpec
from serving import FakeBackend, fake_server

ASK = {"model": "original", "prompt": "Where does Ada live?"}
JSON = {"content-type": "application/json"}


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, str]:
    """Role -> token; their file is tokens.txt."""
    made = {role: new_token(f"{role}-user", role) for role in Role}
    (tmp_path / "tokens.txt").write_text("# who\n\n" + "\n".join(line for _, line in made.values()))
    return {role: token for role, (token, _) in made.items()}


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def status(client: TestClient, method: str, path: str, token: str | None, body: Any = None) -> int:
    return client.request(method, path, json=body, headers={} if token is None else bearer(token)).status_code


def test_each_role_may_do_what_it_says(tmp_path: Path, tokens: dict[str, str]) -> None:
    fields = {"tokens": str(tmp_path / "tokens.txt"), "aliases_file": str(tmp_path / "aliases.json")}
    client = TestClient(fake_server(tmp_path, **fields))
    probe = {"models": ["original"], "question": "Where?"}
    for role, query, probing, admin in (("query", 200, 403, 403), ("probe", 200, 200, 403), ("admin", 200, 200, 200)):
        token = tokens[role]
        assert status(client, "POST", "/v1/completions", token, ASK) == query
        assert status(client, "GET", "/metrics", token) == query
        for path in ("/v1/probe", "/v1/render"):
            assert status(client, "POST", path, token, probe) == probing
        assert status(client, "GET", "/v1/questions", token) == probing
        assert status(client, "PUT", "/v1/aliases/production", token, {"model": "unlearned"}) == admin


def test_without_a_valid_token_nothing_but_health_answers(tmp_path: Path, tokens: dict[str, str]) -> None:
    client = TestClient(fake_server(tmp_path, tokens=str(tmp_path / "tokens.txt")))
    for token in (None, "", "wrong", tokens["query"] + "x", "é"):
        headers = {} if token is None else {"authorization": f"Bearer {token}".encode()}
        for path in ("/v1/models", "/metrics", "/openapi.json", "/v1/compare/x"):
            response = client.get(path, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["type"] == "authentication_error"
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").json() == {"status": "ok", "models": {}}  # names are for callers
    assert client.get("/readyz", headers=bearer(tokens["query"])).json()["models"] == {"original": True}


def test_a_token_is_revoked_without_a_restart(tmp_path: Path, tokens: dict[str, str]) -> None:
    file = tmp_path / "tokens.txt"
    known = Tokens(file)
    assert known.caller(tokens["probe"]) is not None
    kept = file.read_text().splitlines()[2]
    file.write_text(kept)
    import os

    os.utime(file, ns=(1, 1))  # another time, however coarse the clock
    assert known.caller(tokens["probe"]) is None
    assert known.caller(tokens["query"]) is not None
    os.utime(file, ns=(2, 2))
    assert known.caller(tokens["query"]) is not None


def test_only_what_the_token_file_says_now_counts(
    tmp_path: Path, tokens: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Emptied, deleted, unreadable: nobody is known. Of a malformed file the lines that are well formed count."""
    file = tmp_path / "tokens.txt"
    text = file.read_text()
    known = Tokens(file)
    assert known.caller(tokens["admin"]) is not None
    for change in (lambda: file.write_text("# nobody\n"), file.unlink, file.mkdir):
        change()
        assert known.caller(tokens["admin"]) is None
    file.rmdir()
    file.write_bytes(b"nonsense \xff\n" + text.encode() + b"\nada query secret")
    assert [known.caller(token) is not None for token in tokens.values()] == [True] * len(tokens)
    assert "lines [1, 7]" in caplog.text


def test_the_token_file_holds_no_token(tokens: dict[str, str], tmp_path: Path) -> None:
    text = (tmp_path / "tokens.txt").read_text()
    assert all(token not in text for token in tokens.values())
    assert hashlib.sha256(tokens["admin"].encode()).hexdigest() in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no token"),
        ("ada query", "line 1: write NAME ROLE SHA256"),
        ("ada boss " + 64 * "0", "line 1: write NAME ROLE SHA256"),
        ("ada query secret", "line 1: write NAME ROLE SHA256"),
        ("ada query " + 64 * "é", "line 1: write NAME ROLE SHA256"),
    ],
)
def test_a_malformed_token_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises(UserError, match=message):
        read_tokens(tmp_path / "t")
    with pytest.raises(UserError, match="cannot be read"):
        read_tokens(tmp_path / "missing")


def test_a_body_that_is_too_large(tmp_path: Path) -> None:
    client = TestClient(fake_server(tmp_path, limits={"body_bytes": 2048}))
    assert client.post("/v1/completions", json={**ASK, "prompt": "x" * 1000}).status_code == 200
    assert client.post("/v1/completions", json={**ASK, "prompt": "x" * 3000}).status_code == 413

    def pieces() -> Any:
        yield from [b"x" * 500] * 10

    assert client.post("/v1/completions", content=pieces(), headers=JSON).status_code == 413


SCOPE = {
    "type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"",
    "headers": [(k.encode(), v.encode()) for k, v in {"host": "testserver", **JSON}.items()],
}  # fmt: skip


def collector(types: list[str]) -> Any:
    async def send(message: Any) -> None:
        types.append(message["type"])

    return send


async def call(app: Any, receive: Any) -> int:
    """The status of POST /v1/completions, spoken to by hand."""
    told: list[Any] = []

    async def send(message: Any) -> None:
        told.append(message)

    await app(dict(SCOPE), receive, send)
    return int(told[0]["status"])


def test_a_body_that_never_ends_or_breaks_off(tmp_path: Path) -> None:
    async def slow() -> Any:
        await asyncio.sleep(60)

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    app = fake_server(tmp_path, limits={"body_s": 0.05})
    assert asyncio.run(call(app, slow)) == 408
    assert asyncio.run(call(app, gone)) == 400


@pytest.mark.parametrize(("stream", "begun"), [(False, False), (True, False), (True, True)])
def test_a_client_that_goes_away_ends_its_request(tmp_path: Path, stream: bool, begun: bool) -> None:
    """Streamed or not, before the first token and after it: nothing goes on working for it."""

    async def run() -> None:
        backend, reached, left = FakeBackend(), asyncio.Event(), asyncio.Event()
        whole = backend.stream

        async def held(*arguments: Any) -> Any:
            try:
                async for event in whole(*arguments):
                    if begun:
                        yield event
                    reached.set()
                    await asyncio.sleep(0 if begun and isinstance(event, Prompted) else 3600)
            finally:
                left.set()

        backend.stream = held  # type: ignore[method-assign]
        messages = iter([{"type": "http.request", "body": json.dumps({**ASK, "stream": stream}).encode()}])
        sent: list[str] = []

        async def receive() -> Any:
            if (body := next(messages, None)) is not None:
                return body
            await reached.wait()
            return {"type": "http.disconnect"}

        app = fake_server(tmp_path, backend)
        await asyncio.wait_for(app(dict(SCOPE), receive, collector(sent)), 60)
        assert left.is_set()
        assert app.under_way == 0
        assert sent == (["http.response.start", "http.response.body"] if begun else [])

    asyncio.run(run())
    (logged,) = [json.loads(line) for line in (tmp_path / "access.jsonl").read_text().splitlines()]
    assert logged["status"] == 499


def test_an_answer_that_is_out_is_no_hang_up(tmp_path: Path) -> None:
    """Servers tell of both by the same message."""

    async def run() -> None:
        answered, sent = asyncio.Event(), []
        body = iter([{"type": "http.request", "body": json.dumps(ASK).encode()}])

        async def receive() -> Any:
            if (message := next(body, None)) is not None:
                return message
            await answered.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            if message["type"] == "http.response.body":
                answered.set()
                await asyncio.sleep(0.01)  # the message above comes while this one is still being sent

        await fake_server(tmp_path)(dict(SCOPE), receive, send)
        assert [each["type"] for each in sent] == ["http.response.start", "http.response.body"]

    asyncio.run(run())
    (logged,) = [json.loads(line) for line in (tmp_path / "access.jsonl").read_text().splitlines()]
    assert logged["status"] == 200


def test_only_json_is_taken(tmp_path: Path) -> None:
    """A foreign web page can post a form or plain text to this machine, but no JSON."""
    client = TestClient(fake_server(tmp_path))
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        response = client.post("/v1/completions", content=json.dumps(ASK), headers={"content-type": kind})
        assert response.status_code == 415
    assert "access-control-allow-origin" not in client.get("/v1/models", headers={"origin": "https://x.org"}).headers
    assert client.options("/v1/completions", headers={"origin": "https://x.org"}).status_code == 405


def test_only_this_machines_names_on_loopback(tmp_path: Path) -> None:
    client = TestClient(fake_server(tmp_path, http={}))
    for host, expected in (("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("evil.example", 421)):
        assert client.get("/v1/models", headers={"host": host}).status_code == expected
    assert HttpSpec(host="0.0.0.0").hosts is None
    assert HttpSpec(host="0.0.0.0", allowed_hosts=("a.org",)).hosts == {"a.org"}


@pytest.mark.parametrize("by", ["token", "address"])
def test_requests_under_way_are_counted(tmp_path: Path, tokens: dict[str, str], by: str) -> None:
    """Of each token; where none is needed, of each client's address. Another one's, health and metrics go on."""

    async def run() -> None:
        backend = FakeBackend()
        started, go_on = asyncio.Event(), asyncio.Event()
        complete = backend.complete

        async def held(*arguments: Any) -> Any:
            started.set()
            await go_on.wait()
            return await complete(*arguments)

        backend.complete = held  # type: ignore[method-assign]
        file = str(tmp_path / "tokens.txt") if by == "token" else None
        app = fake_server(tmp_path, backend, limits={"requests_per_token": 1}, tokens=file)

        async def ask(who: int, path: str = "/v1/completions") -> httpx.Response:
            transport = httpx.ASGITransport(app, client=(f"10.0.0.{who if by == 'address' else 1}", 1234))
            headers = bearer(list(tokens.values())[who])
            async with httpx.AsyncClient(transport=transport, base_url="http://testserver", headers=headers) as client:
                return await (client.post(path, json=ASK) if path.startswith("/v1") else client.get(path))

        first = asyncio.create_task(ask(0))
        await started.wait()
        second = await ask(0)
        assert (second.status_code, second.headers["retry-after"]) == (429, "1")
        assert f"1 requests of this {by} are under way already" in second.text
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await ask(0, path)).status_code == 200
        other = asyncio.create_task(ask(1))
        await asyncio.sleep(0.05)
        assert not other.done()
        go_on.set()
        assert [(await each).status_code for each in (first, other)] == [200, 200]
        assert (await ask(0)).status_code == 200
        assert app.under_way == 0

    asyncio.run(run())


def test_security_headers_and_request_ids(tmp_path: Path) -> None:
    client = TestClient(fake_server(tmp_path))
    response = client.get("/v1/models", headers={"x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in response.headers["content-security-policy"]
    other = client.get(f"/v1/{'x' * 1000}", headers={"x-request-id": "a b\\n"})
    assert len(other.headers["x-request-id"]) == 32
    logged = [json.loads(line) for line in (tmp_path / "access.jsonl").read_text().splitlines()]
    assert [line["request_id"] for line in logged] == ["mine-1", other.headers["x-request-id"]]
    assert [line["status"] for line in logged] == [200, 404]
    assert [len(line["path"]) for line in logged] == [10, 256]


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [("hash", hashlib.sha256(ASK["prompt"].encode()).hexdigest()), ("text", ASK["prompt"]), ("none", None)],
)
def test_the_audit_log(tmp_path: Path, tokens: dict[str, str], prompts: str, expected: str | None) -> None:
    audit = tmp_path / "audit.jsonl"
    fields = {"audit": {"file": str(audit), "prompts": prompts}, "tokens": str(tmp_path / "tokens.txt")}
    client = TestClient(fake_server(tmp_path, **fields))
    client.post("/v1/completions", json={**ASK, "user": "u1"}, headers=bearer(tokens["query"]))
    client.get("/v1/models", headers=bearer(tokens["query"]))
    (line,) = [json.loads(line) for line in audit.read_text().splitlines()]
    assert (line["token"], line["models"], line["user"], line["status"]) == ("query-user", ["original"], "u1", 200)
    assert line.get("prompts") == (None if expected is None else [expected])
    assert ASK["prompt"] not in (tmp_path / "access.jsonl").read_text()


def audited(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_audit_log_has_all_that_a_client_wrote_and_changed(tmp_path: Path, tokens: dict[str, str]) -> None:
    """All texts of a probe and a comparison, aliases and what they came to stand for, and who was refused."""
    audit = tmp_path / "audit.jsonl"
    fields = {"audit": {"file": str(audit), "prompts": "text"}, "tokens": str(tmp_path / "tokens.txt")}
    app = fake_server(tmp_path, aliases_file=str(tmp_path / "aliases.json"), **fields)
    client = TestClient(app)
    question = {"question": "Where?", "answer": "Oslo.", "context": ["A fact.", "Another."]}
    texts = ["Where?", "Oslo.", "A fact.", "Another."]
    for path, body in (
        ("/v1/probe", {"models": ["original"], **question}),
        ("/v1/compare", {"models": ["original"], "questions": [question]}),
    ):
        client.post(path, json=body, headers=bearer(tokens["probe"]))
        assert audited(audit)[-1]["prompts"] == texts
    client.put("/v1/aliases/mine", json={"model": "unlearned"}, headers=bearer(tokens["admin"]))
    client.delete("/v1/aliases/mine", headers=bearer(tokens["admin"]))
    for log in (audit, tmp_path / "access.jsonl"):
        put, deleted = audited(log)[-2:]
        assert (put["alias"], put["token"], put["status"]) == ({"mine": "unlearned"}, "admin-user", 200)
        assert (deleted["alias"], deleted["method"], deleted["status"]) == ({"mine": None}, "DELETE", 200)
    for token, body, name, expected in (
        (tokens["query"], {"model": "unlearned"}, "query-user", 403),
        (tokens["admin"], {"model": "nope"}, "admin-user", 404),
        (tokens["admin"], {}, "admin-user", 400),
        ("wrong", {"model": "unlearned"}, None, 401),
    ):
        assert client.put("/v1/aliases/mine", json=body, headers=bearer(token)).status_code == expected
        assert (audited(audit)[-1].get("token"), audited(audit)[-1]["status"]) == (name, expected)
    assert {stat.S_IMODE(log.stat().st_mode) for log in (audit, tmp_path / "access.jsonl")} == {0o600}


def test_a_draining_server_takes_no_more(tmp_path: Path) -> None:
    app = fake_server(tmp_path)
    client = TestClient(app)
    app.draining = True
    response = client.post("/v1/completions", json=ASK)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "10"
    assert client.get("/readyz").json()["status"] == "draining"
    assert client.get("/healthz").status_code == 200


def test_a_server_whose_model_is_loading_is_not_ready(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.up = False
    response = TestClient(fake_server(tmp_path, backend)).get("/readyz")
    assert response.status_code == 503
    assert response.json() == {"status": "loading", "models": {"original": False}}


def test_metrics(tmp_path: Path) -> None:
    client = TestClient(fake_server(tmp_path))
    client.post("/v1/completions", json=ASK)
    client.post("/v1/completions", json={**ASK, "stream": True})
    client.get("/v1/nothing/../../etc/passwd")
    text = client.get("/metrics").text
    assert 'obliviate_tokens_total{kind="generated",model="original"} 8.0' in text
    assert 'obliviate_tokens_total{kind="prompt",model="original"} 8.0' in text
    assert 'obliviate_answer_seconds_count{model="original"} 2.0' in text
    assert 'obliviate_first_token_seconds_count{model="original"} 1.0' in text
    assert 'obliviate_queue_length{model="original"} 0.0' in text
    assert 'obliviate_http_requests_total{route="/v1/completions",status="200"} 2.0' in text
    assert "passwd" not in text


def test_an_alias_is_switched_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "aliases.json"
    backend = FakeBackend()
    client = TestClient(fake_server(tmp_path, backend, aliases_file=str(file)))

    def served() -> str:
        client.post("/v1/completions", json={**ASK, "model": "production"})
        return backend.asked[-1][0].name

    assert served() == "original"
    assert client.put("/v1/aliases/production", json={"model": "unlearned"}).json() == {
        "aliases": {"production": "unlearned"}
    }
    assert served() == "unlearned"
    file.write_text(json.dumps({"production": "runs/folder/model", "other": "original"}))  # by another process
    assert served() == "production"
    assert backend.asked[-1][0].folder == "runs/folder/model"
    file.write_text("{ half a file")
    assert served() == "production"
    assert "runs/folder" not in client.get("/v1/models").text  # where things lie is nobody's business
    for alias, model, expected in (("production", "nope", 404), ("original", "unlearned", 409)):
        assert client.put(f"/v1/aliases/{alias}", json={"model": model}).status_code == expected


def test_without_a_file_aliases_stay(tmp_path: Path) -> None:
    client = TestClient(fake_server(tmp_path))
    put = client.put("/v1/aliases/production", json={"model": "unlearned"})
    for response in (put, client.delete("/v1/aliases/production")):
        assert response.status_code == 409
        assert response.json()["error"]["code"] == "no_aliases_file"


def test_an_alias_is_taken_back(tmp_path: Path) -> None:
    """What the config says of it counts again; what it says itself can only be changed there."""
    file = tmp_path / "aliases.json"
    client = TestClient(fake_server(tmp_path, aliases_file=str(file)))
    for name in ("production", "mine"):
        client.put(f"/v1/aliases/{name}", json={"model": "unlearned"})
    assert client.delete("/v1/aliases/mine").json() == {"aliases": {"production": "unlearned"}}
    assert client.delete("/v1/aliases/production").json() == {"aliases": {"production": "original"}}
    assert json.loads(file.read_text()) == {}
    assert client.delete("/v1/aliases/production").status_code == 409
    assert client.delete("/v1/aliases/mine").status_code == 404


@pytest.mark.parametrize("name", ["$ledgers", "-x", "a%20b", "x" * 101, "é"])
def test_an_alias_is_named_as_in_a_config(tmp_path: Path, name: str) -> None:
    client = TestClient(fake_server(tmp_path, aliases_file=str(tmp_path / "aliases.json")))
    response = client.put(f"/v1/aliases/{name}", json={"model": "unlearned"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "name"
    assert not (tmp_path / "aliases.json").exists()


def test_under_a_prefix_nothing_is_open_that_was_closed(tmp_path: Path, tokens: dict[str, str]) -> None:
    """A Ray Serve application may have a route prefix, which the application sees as its root path."""
    app = fake_server(tmp_path, tokens=str(tmp_path / "tokens.txt"))
    client = TestClient(app, root_path="/prefix")
    for path in ("/prefix/v1/models", "/v1/models", "/prefix/metrics"):
        assert client.get(path).status_code == 401
    assert client.get("/prefix/v1/models", headers=bearer(tokens["query"])).status_code == 200
    assert client.post("/prefix/anything", json={}).status_code == 401
