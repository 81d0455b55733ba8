"""OpenAI's responses, read by its own client, on a fake engine whose tokens are words of log-probability -0.5."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient

from obliviate_serve.engine import Chat, Sampling
from serving import ANSWER, FakeBackend, fake_server


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def http(tmp_path: Path, backend: FakeBackend) -> TestClient:
    return TestClient(fake_server(tmp_path, backend))


@pytest.fixture
def client(http: TestClient) -> openai.OpenAI:
    return openai.OpenAI(base_url="http://testserver/v1", api_key="none", max_retries=0, http_client=http)


def test_a_response(client: openai.OpenAI, backend: FakeBackend) -> None:
    got = client.responses.create(
        model="original",
        input="Where is Ada?",
        instructions="Be brief.",
        temperature=0,
        store=False,
        top_logprobs=1,
        include=["message.output_text.logprobs"],
    )
    assert (got.output_text, got.status, got.error, got.incomplete_details) == (ANSWER, "completed", None, None)
    assert got.usage is not None
    assert (got.usage.input_tokens, got.usage.output_tokens, got.usage.total_tokens) == (5, 4, 9)
    (item,) = got.output
    assert item.type == "message"
    assert [each.logprob for each in item.content[0].logprobs or []] == [-0.5] * 4  # type: ignore[union-attr]
    (_, prompt, sampling) = backend.asked[0]
    assert prompt == Chat((("system", "Be brief."), ("user", "Where is Ada?")))
    assert sampling == Sampling(temperature=0.0, logprobs=1)


def test_the_conversation_is_sent_back_whole(client: openai.OpenAI, backend: FakeBackend) -> None:
    """What was answered is an item of the next request as it came."""
    first = client.responses.create(model="original", input=[{"role": "user", "content": "Who?"}])
    again: Any = [{"role": "user", "content": "Who?"}, *first.output, {"role": "user", "content": "Where?"}]
    client.responses.create(model="original", input=again)
    assert backend.asked[1][1] == Chat((("user", "Who?"), ("assistant", ANSWER), ("user", "Where?")))


def test_a_response_that_is_cut_off(client: openai.OpenAI, backend: FakeBackend) -> None:
    backend.finish = "length"
    got = client.responses.create(model="original", input="x", max_output_tokens=2)
    assert (got.output_text, got.status) == ("Ada lives", "incomplete")
    assert got.incomplete_details is not None
    assert got.incomplete_details.reason == "max_output_tokens"
    *_, last = client.responses.create(model="original", input="x", max_output_tokens=2, stream=True)
    assert last.type == "response.incomplete"


def test_a_streamed_response(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="original", input="x", stream=True))
    assert [each.type for each in events] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        *["response.output_text.delta"] * 4,
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert [each.sequence_number for each in events] == list(range(12))
    assert "".join(each.delta for each in events if each.type == "response.output_text.delta") == ANSWER
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == ANSWER
    assert events[0].response.output == []  # type: ignore[union-attr]


def test_a_stream_that_breaks_off(client: openai.OpenAI, backend: FakeBackend) -> None:
    backend.dies_after = 2
    with pytest.raises(openai.APIError, match="died"):
        list(client.responses.create(model="original", input="x", stream=True))


def test_json(http: TestClient, backend: FakeBackend) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    for form, expected in (
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "name": "place", "schema": schema, "strict": True}, schema),
    ):
        asked = {"model": "original", "input": "x", "text": {"format": form, "verbosity": None}}
        got = http.post("/v1/responses", json=asked).json()
        assert form.items() <= got["text"]["format"].items()
        text = backend.asked[-1][2].json_schema
        assert (None if text is None else json.loads(text)) == expected


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"background": True}, "background"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input"),
        ({"truncation": "auto"}, "truncation"),
    ],
)
def test_what_it_does_not_have_is_named(http: TestClient, change: dict[str, Any], param: str) -> None:
    response = http.post("/v1/responses", json={"model": "original", "input": "x", **change})
    assert response.status_code == 400
    assert response.json()["error"]["param"].partition(".")[0] == param
