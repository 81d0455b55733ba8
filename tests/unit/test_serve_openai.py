"""OpenAI's interface on a fake engine whose tokens are words, each of log-probability -0.5."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from obliviate_serve import openai, whole
from obliviate_serve.engine import Bare, Chat, Sampling
from serving import FakeBackend, fake_server

CHAT = {"model": "original", "messages": [{"role": "user", "content": "Where does Ada live?"}]}


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def client(tmp_path: Path, backend: FakeBackend) -> TestClient:
    return TestClient(fake_server(tmp_path, backend))


def lines(text: str) -> list[Any]:
    """The data of server-sent events; [DONE] as a text."""
    found = [line.removeprefix("data: ") for line in text.splitlines() if line]
    return [each if each == "[DONE]" else json.loads(each) for each in found]


def error(response: Any, status: int) -> Any:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


def test_a_completion(client: TestClient) -> None:
    got = client.post("/v1/completions", json={"model": "original", "prompt": "Ask me", "max_tokens": 2}).json()
    assert got["object"] == "text_completion"
    assert got["id"].startswith("cmpl-")
    assert got["choices"] == [{"index": 0, "text": "Ada lives", "logprobs": None, "finish_reason": "stop"}]
    assert got["usage"] == {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}


def test_log_probabilities_and_echo(client: TestClient) -> None:
    asked = {"model": "original", "prompt": "Ask me", "max_tokens": 1, "logprobs": 1, "echo": True}
    (choice,) = client.post("/v1/completions", json=asked).json()["choices"]
    assert choice["text"] == "Ask meAda"
    assert choice["logprobs"]["tokens"] == ["Ask", "me", "Ada"]
    assert choice["logprobs"]["token_logprobs"] == [-0.5] * 3
    assert choice["logprobs"]["top_logprobs"][2] == {"Ada": -0.5, "other": -2.0}
    assert choice["logprobs"]["text_offset"] == [0, 3, 5]


def test_several_prompts_and_choices_are_numbered_prompt_by_prompt(client: TestClient, backend: FakeBackend) -> None:
    asked = {"model": "original", "prompt": [[1, 2, 3], [4]], "max_tokens": 1, "n": 2, "seed": 7, "stop": "x"}
    got = client.post("/v1/completions", json=asked).json()
    assert [choice["index"] for choice in got["choices"]] == [0, 1, 2, 3]
    assert got["usage"] == {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8}
    assert {prompt for _, prompt, _ in backend.asked} == {(1, 2, 3), (4,)}
    assert backend.asked[0][2] == Sampling(max_tokens=1, n=2, seed=7, stop=("x",))


@pytest.mark.parametrize("stream", [False, True])
def test_many_prompts_do_not_crowd_themselves_out(client: TestClient, backend: FakeBackend, stream: bool) -> None:
    """256 prompts at a model whose queue takes 128."""
    backend.queue = 128
    asked = {"model": "original", "prompt": ["x"] * 256, "max_tokens": 1, "stream": stream}
    response = client.post("/v1/completions", json=asked)
    assert response.status_code == 200, response.text
    assert response.text.count('"Ada"') == 256
    assert backend.most == 32


def test_a_queue_shorter_than_a_requests_turns(tmp_path: Path, backend: FakeBackend) -> None:
    backend.queue = 5
    client = TestClient(fake_server(tmp_path, backend, limits={"queued_requests": 5}))
    assert client.post("/v1/completions", json={"model": "original", "prompt": ["x"] * 20}).status_code == 200


def test_a_bug_among_several_prompts_ends_the_request(tmp_path: Path, backend: FakeBackend) -> None:
    """Streamed or not, it is told; it was waited for without end."""
    backend.fails = ZeroDivisionError()
    client = TestClient(fake_server(tmp_path, backend), raise_server_exceptions=False)
    for stream in (False, True):
        asked = {"model": "original", "prompt": ["x", "y"], "stream": stream}
        response = client.post("/v1/completions", json=asked)
        assert error(response, 500)["type"] == "server_error"


def test_a_streamed_completion(client: TestClient) -> None:
    asked = {"model": "original", "prompt": ["a", "b"], "stream": True, "stream_options": {"include_usage": True}}
    response = client.post("/v1/completions", json=asked)
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, usage, done = lines(response.text)
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 2, "completion_tokens": 8, "total_tokens": 10}
    for index in (0, 1):
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
        assert "".join(c["text"] for c in own) == "Ada lives in London."
        assert [c["finish_reason"] for c in own] == [None, None, None, "stop"]


def test_chat(client: TestClient, backend: FakeBackend) -> None:
    parts = [{"type": "text", "text": "Where "}, {"type": "text", "text": "is it?"}]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    asked = {"model": "original", "messages": messages, "logprobs": True, "top_logprobs": 2, "max_completion_tokens": 1}
    got = client.post("/v1/chat/completions", json=asked).json()
    assert got["object"] == "chat.completion"
    (choice,) = got["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Ada", "refusal": None}
    (token,) = choice["logprobs"]["content"]
    assert token["token"] == "Ada"
    assert token["bytes"] == [65, 100, 97]
    assert [each["logprob"] for each in token["top_logprobs"]] == [-0.5, -2.0]
    assert backend.asked[0][1] == Chat((("system", "Be brief."), ("user", "Where is it?")))
    assert backend.asked[0][2].max_tokens == 1


def test_an_event_is_one_line_for_clients_that_end_lines_at_separators_of_unicode(client: TestClient) -> None:
    asked = {"model": "original", "prompt": "a\u2028b\x85é", "echo": True, "max_tokens": 1, "stream": True}
    with client.stream("POST", "/v1/completions", json=asked) as response:
        *events, done = [line for line in response.iter_lines() if line]
    texts = [json.loads(line.removeprefix("data: "))["choices"][0]["text"] for line in events]
    assert "".join(texts).startswith("a\u2028b\x85é")
    assert done == "data: [DONE]"


def test_a_streamed_chat_begins_with_the_role(client: TestClient) -> None:
    first, *rest, done = lines(client.post("/v1/chat/completions", json={**CHAT, "stream": True}).text)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in rest) == "Ada lives in London."
    assert rest[-1]["choices"][0]["finish_reason"] == "stop"
    assert done == "[DONE]"


def test_a_stream_that_breaks_off_ends_with_an_error(client: TestClient, backend: FakeBackend) -> None:
    backend.dies_after = 2
    *chunks, last = lines(client.post("/v1/chat/completions", json={**CHAT, "stream": True}).text)
    assert last["error"]["code"] == "replica_died"
    assert all("choices" in chunk for chunk in chunks)


def test_an_error_before_the_first_token_has_a_status_of_its_own(client: TestClient, backend: FakeBackend) -> None:
    from obliviate_serve.errors import busy

    backend.fails = busy("too many requests are waiting for original")
    for stream in (False, True):
        response = client.post("/v1/chat/completions", json={**CHAT, "stream": stream})
        assert error(response, 429)["type"] == "rate_limit_error"
        assert response.headers["retry-after"] == "1"


def test_models_and_aliases_are_listed(client: TestClient) -> None:
    data = {each["id"]: each for each in client.get("/v1/models").json()["data"]}
    assert list(data) == ["original", "unlearned", "adapter", "rare", "production"]
    assert data["adapter"]["root"] == "original"
    assert data["rare"]["on_demand"]
    assert {each["digits"] for each in data.values()} == {2}  # bfloat16
    assert (data["production"]["kind"], data["production"]["root"]) == ("alias", "original")


def test_one_model_of_the_list(client: TestClient) -> None:
    data = {each["id"]: each for each in client.get("/v1/models").json()["data"]}
    for name in ("adapter", "production"):
        assert client.get(f"/v1/models/{name}").json() == data[name]
    assert error(client.get("/v1/models/nope"), 404)["code"] == "model_not_found"


def test_an_answer_that_would_be_too_large(tmp_path: Path, backend: FakeBackend) -> None:
    """n x (max_tokens of each prompt + echoed bytes) x (logprobs + 1): a text of 3 bytes has at most 4 tokens."""
    client = TestClient(fake_server(tmp_path, backend, limits={"answer_tokens": 120}))
    asked: dict[str, Any] = {"model": "original", "prompt": [[1, 2], [3, 4]], "max_tokens": 3, "n": 2, "logprobs": 5}
    assert client.post("/v1/completions", json={**asked, "echo": True}).status_code == 200  # 2 x (6 + 4) x 6
    for change, size in (
        ({"max_tokens": 4, "echo": True}, 144),
        ({"prompt": ["abc"] * 2, "echo": True}, 168),
        ({"n": 4}, 144),
        ({"logprobs": 10}, 132),
        ({"max_tokens": None, "n": 1, "prompt": "a", "logprobs": None}, 1024),  # all that the context has room for
    ):
        got = error(client.post("/v1/completions", json={**asked, **change}), 400)
        assert got["code"] == "answer_too_large"
        assert f"x (logprobs + 1) comes to {size}, more than 120" in got["message"]
    backend.asked.clear()
    assert error(client.post("/v1/chat/completions", json={**CHAT, "stream": True}), 400)["code"] == "answer_too_large"
    assert backend.asked == []


def test_others_are_answered_while_a_large_answer_is_written(tmp_path: Path) -> None:
    """The event loop comes round between any two of its 64 choices."""
    turns = 0

    async def run() -> None:
        nonlocal turns
        app = fake_server(tmp_path)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://testserver") as client:
            asked = {"model": "original", "prompt": ["a b"] * 64, "max_tokens": 4, "logprobs": 1, "echo": True}
            large = asyncio.create_task(client.post("/v1/completions", json=asked))

            async def count() -> None:
                nonlocal turns
                while True:
                    turns += writing
                    await asyncio.sleep(0)

            counting = asyncio.create_task(count())
            assert (await large).status_code == 200
            counting.cancel()

    writing = 0
    compact = whole.compact

    def noted(value: Any) -> str:
        nonlocal writing
        writing = 1
        return compact(value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai, "compact", noted)
        asyncio.run(run())
    assert turns >= 64


def test_aliases_and_adapters_reach_their_replicas(client: TestClient, backend: FakeBackend) -> None:
    for name in ("production", "adapter", "rare"):
        assert client.post("/v1/completions", json={"model": name, "prompt": "x"}).json()["model"] == name
    targets = [target for target, _, _ in backend.asked]
    assert [(t.name, t.deployment, t.adapter) for t in targets] == [
        ("original", "original", None), ("adapter", "original", "adapter"), ("rare", None, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 129}, "n", "less than or equal to 128"),
        ({"max_tokens": 0}, None, "nothing would be returned"),
        ({"logprobs": 21}, "logprobs", "less than or equal to 20"),
        ({"temprature": 0}, "temprature", "unknown parameter"),
        ({"presence_penalty": 2.5}, "presence_penalty", "less than or equal to 2"),
        ({"repetition_penalty": 1.1}, "repetition_penalty", "less than or equal to 1"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "should match pattern"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "less than or equal to 100"),
        ({"store": True}, "store", "should be False"),
        ({"metadata": {"a": "b"}}, "metadata", "at most 0 items"),
        ({"service_tier": "priority"}, "service_tier", "should be 'auto' or 'default'"),
        ({"nothing": None}, "nothing", "unknown parameter"),
        ({"prompt": []}, "prompt", "at least 1 item"),
        ({"prompt": [-1]}, "prompt", ""),
        ({"prompt": {"a": 1}}, "prompt", ""),
    ],
)
def test_a_wrong_parameter_is_named(
    client: TestClient, change: dict[str, Any], param: str | None, message: str
) -> None:
    got = error(client.post("/v1/completions", json={"model": "original", "prompt": "x", **change}), 400)
    assert got["type"] == "invalid_request_error"
    assert (got["param"] or "").partition(".")[0] == (param or "")
    assert message in got["message"]


NOTHING = {
    "repetition_penalty": 1.0, "top_k": -1, "min_p": 0, "ignore_eos": False, "store": False, "metadata": None,
    "service_tier": "auto", "logit_bias": None, "presence_penalty": 0, "frequency_penalty": 0.0, "stop": None, "n": 1,
    "seed": None, "user": None, "stream": False, "stream_options": None, "temperature": None, "top_p": None,
    "use_beam_search": False, "skip_special_tokens": True, "stop_token_ids": [], "safety_identifier": "x",
}  # fmt: skip
NO_TOOLS = {
    "tools": [], "tool_choice": "none", "functions": None, "function_call": None, "parallel_tool_calls": True,
    "response_format": {"type": "text"}, "modalities": ["text"], "audio": None, "prediction": None, "logprobs": False,
    "reasoning_effort": None, "verbosity": None, "web_search_options": None, "top_logprobs": None,
    "max_completion_tokens": None, "add_generation_prompt": True, "continue_final_message": False,
}  # fmt: skip


def test_what_asks_for_nothing_may_be_said(client: TestClient, backend: FakeBackend) -> None:
    """A client library sends its defaults along; they change nothing of what is asked."""
    for path, asked, more in (
        ("/v1/completions", {"model": "original", "prompt": "x"}, {"suffix": None, "best_of": 1, "logprobs": None}),
        ("/v1/chat/completions", CHAT, {**NO_TOOLS, "tools": None, "tool_choice": None}),
        ("/v1/chat/completions", CHAT, NO_TOOLS),
    ):
        response = client.post(path, json={**asked, **NOTHING, **more})
        assert response.status_code == 200, response.text
        plain = client.post(path, json=asked)
        assert response.json()["choices"] == plain.json()["choices"]
        (_, _, said), (_, _, unsaid) = backend.asked[-2:]
        assert said == unsaid


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}, "messages"),
        ({"continue_final_message": True, "add_generation_prompt": True}, None),
        ({"continue_final_message": True}, None),
        ({"add_generation_prompt": False}, None),
    ],
)
def test_what_cannot_be_honoured_is_named(client: TestClient, change: dict[str, Any], param: str | None) -> None:
    got = error(client.post("/v1/chat/completions", json={**CHAT, **change}), 400)
    assert (got["param"] or "").partition(".")[0] == (param or "")


def test_how_tokens_are_weighed_reaches_the_engine(client: TestClient, backend: FakeBackend) -> None:
    weights = {"presence_penalty": 0.5, "frequency_penalty": -1.5, "logit_bias": {"7": -100, "12": 2.5}}
    asked = {"model": "original", "prompt": "x", "max_tokens": 3, **weights, "ignore_eos": True, "n": 128}
    assert len(client.post("/v1/completions", json=asked).json()["choices"]) == 128
    assert backend.asked[0][2] == Sampling(
        max_tokens=3, n=128, ignore_eos=True, presence_penalty=0.5, frequency_penalty=-1.5,
        logit_bias=((7, -100.0), (12, 2.5)),
    )  # fmt: skip


def test_json_of_a_schema_is_asked_of_the_engine(client: TestClient, backend: FakeBackend) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    for form, expected in (
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}, schema),
    ):
        assert client.post("/v1/chat/completions", json={**CHAT, "response_format": form}).status_code == 200
        assert json.loads(backend.asked[-1][2].json_schema or "") == expected


def test_the_last_message_may_be_the_beginning_of_the_answer(client: TestClient, backend: FakeBackend) -> None:
    messages = [*CHAT["messages"], {"role": "assistant", "content": "Ada lives", "refusal": None}]
    asked = {"model": "original", "messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    assert client.post("/v1/chat/completions", json=asked).status_code == 200
    assert backend.asked[-1][1] == Chat((("user", "Where does Ada live?"), ("assistant", "Ada lives")), begun=True)


def test_names_of_speakers_reach_the_template(client: TestClient, backend: FakeBackend) -> None:
    messages = [{"role": "user", "content": "Hi.", "name": "Ada"}, {"role": "user", "content": "Ho."}]
    client.post("/v1/chat/completions", json={"model": "original", "messages": messages})
    assert backend.asked[-1][1] == Chat((("user", "Hi."), ("user", "Ho.")), ("Ada", None))


def test_tokens_of_a_text_and_their_text(client: TestClient, backend: FakeBackend) -> None:
    def tokenized(**asked: Any) -> Any:
        return client.post("/tokenize", json={"model": "original", **asked})

    assert tokenized(prompt="a b c").json() == {"count": 3, "max_model_len": 1024, "tokens": [0, 1, 2]}
    assert tokenized(prompt="a b", add_special_tokens=False).json()["count"] == 2
    assert tokenized(messages=CHAT["messages"]).json()["count"] == 4
    assert [prompt for _, prompt, _ in backend.asked] == [
        "a b c",
        Bare("a b"),
        Chat((("user", "Where does Ada live?"),)),
    ]
    detokenized = client.post("/detokenize", json={"model": "original", "tokens": [5, 6]})
    assert detokenized.json() == {"prompt": "5 6"}
    assert error(client.post("/detokenize", json={"model": "nope", "tokens": [5]}), 404)["code"] == "model_not_found"
    assert error(tokenized(), 400)["param"] is not None


def test_an_unknown_model_is_answered_with_the_list(client: TestClient) -> None:
    got = error(client.post("/v1/completions", json={"model": "../../etc", "prompt": "x"}), 404)
    assert got["message"] == "there is no model '../../etc'; known: original, unlearned, adapter, rare, production"
    assert (got["param"], got["code"]) == ("model", "model_not_found")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"model": "\xff\xfe"}', b'{"a": 1e999}', b"[" * 5000])
def test_bodies_that_are_no_request(client: TestClient, body: bytes) -> None:
    response = client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert error(response, 400)["type"] == "invalid_request_error"


def test_a_lone_surrogate_comes_back_as_json(client: TestClient, backend: FakeBackend) -> None:
    """JSON may spell half of a character; UTF-8 cannot, so no tokenizer takes it."""
    body = b'{"model": "original", "prompt": "\\ud800"}'
    response = client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert error(response, 400)["param"] == "prompt"


def test_unknown_paths_and_methods(client: TestClient) -> None:
    assert error(client.get("/v1/nothing"), 404)["code"] == "not_found"
    assert error(client.get("/v1/completions"), 405)["code"] == "method_not_allowed"
