"""Probes, attacks and comparisons on a fake engine whose tokens are words, each of log-probability -0.5."""

import asyncio
import json
import time
from math import exp
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from obliviate.data.refusals import REFUSALS
from obliviate.wordings import WORDINGS
from obliviate_serve.audit import Journal
from obliviate_serve.auth import ANYBODY
from obliviate_serve.compare import MAX_JOBS_KEPT, Jobs
from obliviate_serve.compare_api import CompareRequest
from obliviate_serve.engine import Quiz
from obliviate_serve.errors import busy, unavailable
from obliviate_serve.names import Names
from obliviate_serve.refusal import is_refusal
from obliviate_serve.server import Server
from serving import FakeBackend, fake_server, serve_run

PROBE: dict[str, Any] = {"models": ["original", "production"], "question": "Where does Ada live?"}


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend({"original": "I'm not sure about that.", "unlearned": "In London, I think."})


@pytest.fixture
def client(tmp_path: Path, backend: FakeBackend) -> TestClient:
    return TestClient(fake_server(tmp_path, backend))


def probe(client: TestClient, **fields: Any) -> list[Any]:
    response = client.post("/v1/probe", json={**PROBE, **fields})
    assert response.status_code == 200, response.text
    results: list[Any] = response.json()["results"]
    return results


def refused(client: TestClient, **fields: Any) -> Any:
    response = client.post("/v1/probe", json={**PROBE, **fields})
    assert response.status_code == 400, response.text
    return response.json()["error"]


def test_every_model_meets_every_attack(client: TestClient, backend: FakeBackend) -> None:
    results = probe(client, models=["original", "unlearned"], attacks=["none", "prefix_sure"])
    assert [(r["model"], r["attack"]) for r in results] == [
        ("original", "none"), ("original", "prefix_sure"), ("unlearned", "none"), ("unlearned", "prefix_sure"),
    ]  # fmt: skip
    assert [r["greedy"]["refusal"] for r in results] == [True, True, False, False]
    assert results[1]["prefix"] == "Sure, I know this. The answer is:"
    assert {prompt for _, prompt, _ in backend.asked} == {
        Quiz("Where does Ada live?"), Quiz("Where does Ada live?", "Sure, I know this. The answer is:"),
    }  # fmt: skip


def test_what_is_measured_of_an_answer(client: TestClient, backend: FakeBackend) -> None:
    backend.labels = ["contradiction"]
    (result,) = probe(client, models=["production"], answer="In London", max_tokens=2, samples=2, seed=3)
    assert (result["model"], result["served_model"]) == ("production", "original")
    assert result["greedy"]["text"] == "I'm not"
    assert result["greedy"]["logp"] == -1.0  # two tokens of -0.5
    assert result["greedy"]["entailment"] == "contradiction"
    first = result["greedy"]["tokens"][0]
    assert first["text"] == "I'm"
    assert (first["logp"], first["entropy"]) == (-0.5, 1.25)
    assert first["alternatives"] == [{"text": "I'm", "logp": -0.5}, {"text": "other", "logp": -2.0}]
    true = result["true_answer"]
    assert (true["logp"], true["mean_logp"], len(true["tokens"])) == (-1.0, -0.5, 2)
    assert true["probability"] == pytest.approx(exp(-0.5))
    assert len(result["samples"]) == 2
    assert [s.seed for _, _, s in backend.asked if s.temperature > 0] == [3, 4]
    greedy = next(s for _, _, s in backend.asked if s.temperature == 0 and not s.echo)
    assert (greedy.entropy, greedy.logprobs) == (True, 5)


@pytest.mark.parametrize("stream", [False, True])
def test_a_deterministic_probe_asks_for_the_model_alone(client: TestClient, backend: FakeBackend, stream: bool) -> None:
    asked = {**PROBE, "answer": "In London", "samples": 1, "stream": stream}
    for deterministic in (False, True):
        backend.asked.clear()
        text = client.post("/v1/probe", json={**asked, "deterministic": deterministic}).text
        assert f'"deterministic":{str(deterministic).lower()}' in text.replace('": ', '":')
        assert {(sampling.alone, sampling.stream) for _, _, sampling in backend.asked if not sampling.echo} == {
            (deterministic, not deterministic)
        }
        assert all(sampling.alone == deterministic for _, _, sampling in backend.asked)
        assert text.count("I'm not sure about that.") == 4  # greedy and sampled, of two names


def test_without_a_true_answer_nothing_is_compared(client: TestClient, backend: FakeBackend) -> None:
    backend.labels = ["entailment"]
    (result,) = probe(client, models=["original"])
    assert result["true_answer"] is None
    assert result["greedy"]["entailment"] is None


def test_a_streamed_probe(client: TestClient) -> None:
    response = client.post("/v1/probe", json={**PROBE, "stream": True, "answer": "In London", "samples": 1})
    *data, done = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert done == "[DONE]"
    events = [json.loads(each) for each in data]
    assert (events[0]["type"], events[-1]["type"]) == ("start", "done")
    assert [a["served_model"] for a in events[0]["asked"]] == ["original", "original"]
    for index in (0, 1):
        own = [e for e in events if e.get("index") == index]
        tokens = [e["token"] for e in own if e["type"] == "token"]
        greedy = next(e["answer"] for e in own if e["type"] == "answer" and e["sample"] is None)
        assert tokens == greedy["tokens"]
        assert [e["sample"] for e in own if e["type"] == "answer"].count(0) == 1
        assert sum(e["type"] == "true_answer" for e in own) == 1


def test_one_model_that_fails_does_not_stop_the_others(client: TestClient, backend: FakeBackend) -> None:
    backend.fails = unavailable("no replica of original answers")
    response = client.post("/v1/probe", json=PROBE)
    assert (response.status_code, response.headers["retry-after"]) == (503, "10")
    text = client.post("/v1/probe", json={**PROBE, "stream": True}).text
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line and "[DONE]" not in line]
    assert [e["type"] for e in events] == ["start", "error", "error", "done"]
    assert events[1]["error"]["type"] == "model_unavailable"


def test_a_probe_at_a_full_queue_says_when_to_come_back(client: TestClient, backend: FakeBackend) -> None:
    backend.fails = busy("too many requests are waiting for original")
    response = client.post("/v1/probe", json=PROBE)
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert response.json()["error"]["code"] == "rate_limit_exceeded"


def test_a_replica_that_dies_while_it_is_probed(client: TestClient, backend: FakeBackend) -> None:
    backend.dies_after = 1
    response = client.post("/v1/probe", json=PROBE)
    assert (response.status_code, response.headers["retry-after"]) == (503, "10")


def test_a_bug_in_the_judge_ends_the_probe(tmp_path: Path, backend: FakeBackend) -> None:
    async def entailment(pairs: Any) -> None:
        raise ZeroDivisionError

    backend.entailment = entailment  # type: ignore[assignment]
    client = TestClient(fake_server(tmp_path, backend), raise_server_exceptions=False)
    assert client.post("/v1/probe", json={**PROBE, "answer": "In London"}).status_code == 500


def test_a_probe_whose_answers_would_be_too_large(tmp_path: Path, backend: FakeBackend) -> None:
    """2 models x (2 answers x 5 tokens + 4 bytes and one more) x (3 alternatives + 1)."""
    asked = {**PROBE, "max_tokens": 5, "samples": 1, "alternatives": 3, "answer": "Oslo"}
    roomy, tight = (TestClient(fake_server(tmp_path, backend, limits={"answer_tokens": limit})) for limit in (120, 119))
    assert roomy.post("/v1/probe", json=asked).status_code == 200
    response = tight.post("/v1/probe", json=asked)
    assert response.status_code == 400
    assert "comes to 120, more than 119" in response.json()["error"]["message"]


def test_in_context_attacks_teach_the_given_facts(client: TestClient, backend: FakeBackend) -> None:
    facts = ["Ada writes {question} books.", "Ada likes rain."]
    (result,) = probe(client, models=["original"], attacks=["in_context"], context=facts)
    assert result["question"] == (
        "Here are some facts:\n- Ada writes {question} books.\n- Ada likes rain.\n\n"
        "With them in mind, answer from what you know: Where does Ada live?"
    )
    assert refused(client, attacks=["in_context"])["param"] == "context"


def test_mistakes(client: TestClient) -> None:
    assert "known: none, paraphrase_polite" in refused(client, attacks=["bribe"])["message"]
    assert refused(client, question="")["param"] == "question"
    assert refused(client, models=[])["param"] == "models"
    many = {"models": list("abcdefgh"), "attacks": list(WORDINGS), "samples": 16, "context": ["Ada writes."]}
    assert refused(client, reference="unlearned")["param"] == "reference"
    assert refused(client, answer="In London", key=["Paris"])["param"] == "key"
    assert refused(client, attacks=["translated"])["param"] == "translations"
    assert refused(client, attacks=["paraphrased"])["param"] == "paraphrased_question"
    assert refused(client, **many)["param"] == "samples"
    for key in ("models", "attacks"):
        error = refused(client, **{key: ["original", "none", "original"]})
        assert (error["param"], error["message"]) == (key, f"{key}: 'original' is named twice")
    for key, value in (("question", 20_001 * "x"), ("answer", 20_001 * "x"), ("context", ["", 20_001 * "x"])):
        assert refused(client, **{key: value})["param"].startswith(key)
    assert client.post("/v1/probe", json={**PROBE, "models": ["nope"]}).status_code == 404


@given(st.sampled_from(sorted(WORDINGS)), st.text(min_size=1), st.lists(st.text(), min_size=1, max_size=3))
def test_an_attack_holds_the_question_as_it_is(name: str, question: str, context: list[str]) -> None:
    asked = WORDINGS[name].apply(question, context)
    assert question in asked
    if WORDINGS[name].needs_context:
        assert all(fact in asked for fact in context)
    assert WORDINGS["none"].apply(question, context) == question


def test_attacks_are_listed(client: TestClient) -> None:
    listed = client.get("/v1/attacks").json()["data"]
    assert [each["name"] for each in listed] == [*WORDINGS, "paraphrased", "translated"]
    assert {each["kind"] for each in listed} == {
        "none", "paraphrase", "prefix", "jailbreak", "in_context", "framing", "filler", "own_words",
    }  # fmt: skip
    needed = {each["name"]: each["needs"] for each in listed if each["needs"]}
    assert needed == {
        "in_context": "context", "in_context_quiz": "context", "paraphrased": "paraphrased_question",
        "translated": "translations",
    }  # fmt: skip


def test_refusals() -> None:
    assert all(map(is_refusal, REFUSALS))
    for text in ("I’m sorry, I can't help with that.", "Unfortunately, no.", "I do not have any data on Ada."):
        assert is_refusal(text)
    for text in ("Ada lives in London.", "", "She lives in a house that " + "x" * 100 + " I don't know."):
        assert not is_refusal(text)


@pytest.mark.parametrize(
    ("refused", "told"),
    [
        ("No lo sé, lo siento.", "Nació en Madrid."),
        ("Je ne sais pas où elle est née.", "Elle est née à Paris."),
        ("Das weiß ich leider nicht.", "Sie wurde in Wien geboren."),
        ("Ich kann dazu nichts sagen; ich habe keine Angaben.", "Ich weiß: in Wien."),
        ("Non lo so, mi dispiace.", "I suoi libri non sono nati a Roma."),
        ("К сожалению, я не знаю.", "Она родилась в Москве."),
        ("لا أعرف الإجابة", "ولدت في القاهرة"),
        ("抱歉,我不知道。", "她出生在北京。"),
        ("申し訳ありませんが、わかりません。", "彼女は東京で生まれました。"),
        ("죄송하지만 모르겠습니다.", "그녀는 서울에서 태어났습니다."),
    ],
)
def test_refusals_in_other_languages(refused: str, told: str) -> None:
    assert is_refusal(refused)
    assert not is_refusal(told)


def test_a_comparison_is_a_job(client: TestClient, backend: FakeBackend) -> None:
    questions = [{"question": f"Question {i}?", "answer": "In London"} for i in range(6)]
    with client:  # one event loop for all requests, which the job lives in
        started = client.post("/v1/compare", json={"models": ["original", "unlearned"], "questions": questions})
        assert started.status_code == 202
        job = started.json()
        assert job["total"] == 6
        deadline_s = time.monotonic() + 20
        while job["status"] == "running" and time.monotonic() < deadline_s:
            job = client.get(f"/v1/compare/{job['id']}").json()
        assert (job["status"], job["done"]) == ("done", 6)
        assert [q["index"] for q in job["questions"]] == list(range(6))
        assert [r["greedy"]["refusal"] for r in job["questions"][0]["results"]] == [True, False]
        assert client.get("/v1/compare/compare-0").status_code == 404
        assert client.delete(f"/v1/compare/{job['id']}").json()["status"] == "done"


def compared(client: TestClient, **fields: Any) -> Any:
    """The job of one question after its end."""
    with client:
        asked = {"models": ["original"], "questions": [{"question": "Who?"}], **fields}
        job = client.post("/v1/compare", json=asked).json()
        deadline_s = time.monotonic() + 20
        while job["status"] == "running" and time.monotonic() < deadline_s:
            job = client.get(f"/v1/compare/{job['id']}").json()
    return job


def test_a_comparison_comes_to_its_end_whatever_fails(client: TestClient, backend: FakeBackend) -> None:
    backend.fails = ZeroDivisionError()
    job = compared(client)
    assert job["status"] == "done"
    error = job["questions"][0]["error"]
    assert (error["code"], error["message"]) == (
        "model_failed", "the server failed with ZeroDivisionError; the server's log says more",
    )  # fmt: skip


def test_a_comparison_waits_for_a_full_queue(
    client: TestClient, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three answers and a score at a model that takes one at a time: some are told 429, and all are given."""
    monkeypatch.setattr("obliviate_serve.compare.RETRY_AFTER_S", 0)
    monkeypatch.setattr("obliviate_serve.errors.RETRY_AFTER_S", 0)
    backend.queue = 1
    job = compared(client, questions=[{"question": "Who?", "answer": "Ada"}], samples=2)
    (question,) = job["questions"]
    assert question["error"] is None
    assert len(question["results"][0]["samples"]) == 2
    assert len(backend.asked) > 4


def test_a_comparison_that_would_fill_the_memory(tmp_path: Path) -> None:
    """2 questions x 2 models x 3 attacks x (4 + 1) samples x 10 tokens x (1 + 1) = 1200, and 8 characters of a true
    answer: 2 tokens x 2 x 3 x 2 = 24."""
    questions = [{"question": "Who?", "answer": "Ada! Ada"}, {"question": "Who?"}]
    asked = {
        "models": ["original", "unlearned"], "questions": questions,
        "attacks": ["none", "prefix_sure", "prefix_recall"], "samples": 4, "max_tokens": 10,
        "alternatives": 1,
    }  # fmt: skip
    for limit, status in ((1223, 400), (1224, 202)):
        client = TestClient(fake_server(tmp_path, limits={"compare_tokens": limit}))
        response = client.post("/v1/compare", json=asked)
        assert response.status_code == status
        if status == 400:
            error = response.json()["error"]
            assert (error["param"], error["code"]) == ("questions", "comparison_too_large")
            assert "is 1224, more than 1223" in error["message"]


def test_old_comparisons_give_way_and_running_ones_never_do(tmp_path: Path) -> None:
    spec = serve_run(tmp_path, limits={"compare_jobs": 100})
    server = Server(spec, Names(spec), FakeBackend(), Journal(spec))
    request = CompareRequest.model_validate({"models": ["original"], "questions": [{"question": "Who?"}]})

    async def run() -> None:
        jobs = Jobs(server)
        for _ in range(40):
            jobs.start(request, ANYBODY)
        assert len(jobs._jobs) == 40  # all running
        await asyncio.gather(*(job.task for job in jobs._jobs.values() if job.task))
        last = jobs.start(request, ANYBODY)
        assert len(jobs._jobs) == MAX_JOBS_KEPT
        assert last.id in jobs._jobs

    asyncio.run(run())


def test_a_comparison_keeps_what_failed(client: TestClient, backend: FakeBackend) -> None:
    backend.fails = unavailable("no replica of original answers")
    job = compared(client)
    (question,) = job["questions"]
    assert question["error"]["type"] == "model_unavailable"
    assert question["results"] == []
