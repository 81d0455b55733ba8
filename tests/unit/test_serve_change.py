"""What a probe says about what unlearning changed: differences to a reference, the key fact, and the verdict."""

import json
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from obliviate_serve.api import Answer, Question, TokenInfo, TrueAnswer
from obliviate_serve.change import change
from obliviate_serve.engine import Quiz
from obliviate_serve.facts import key_of, sayings
from serving import FakeBackend, fake_server

ASKED: dict[str, Any] = {
    "models": ["original", "unlearned"], "question": "Where does Ada live?", "answer": "Ada lives in Little London.",
    "reference": "unlearned",
}  # fmt: skip


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend({"original": "She lives in LITTLE London!", "unlearned": "In London, I think."})


@pytest.fixture
def client(tmp_path: Path, backend: FakeBackend) -> TestClient:
    return TestClient(fake_server(tmp_path, backend))


def probe(client: TestClient, **fields: Any) -> Any:
    response = client.post("/v1/probe", json={**ASKED, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def true_answer(texts: list[str], logps: list[float | None], ranks: list[int], key: list[int]) -> TrueAnswer:
    tokens = [
        TokenInfo(text=text, logp=logp, entropy=None, rank=rank, alternatives=[])
        for text, logp, rank in zip(texts, logps, ranks, strict=True)
    ]
    sums = [logps[place] for place in key]
    known = [each for each in sums if each is not None]
    key_logp = sum(known) if key and len(known) == len(sums) else None
    return TrueAnswer(text="", tokens=tokens, logp=None, mean_logp=None, probability=None, key=key, key_logp=key_logp)


def answers(*texts: str) -> list[Answer]:
    return [
        Answer(text=text, tokens=[], finish_reason="stop", logp=None, refusal=False, entailment=None) for text in texts
    ]


TEXTS = ["in", " Trond", "heim"]
REFERENCE = true_answer(TEXTS, [-0.5, -6.0, -1.0], [1, 400, 2], [1, 2])


def test_differences_and_verdicts_by_hand() -> None:
    """The key's words: -7 nats under the reference, -6.5 and -6 under two models: exp(0.5) = 1.65 times as probable,
    and exp(1) = 2.72 times."""
    less = change(true_answer(TEXTS, [-0.25, -5.5, -1.0], [1, 90, 2], [1, 2]), answers("Oslo"), [["x"]], REFERENCE, 2)
    assert less.logp == [0.25, 0.5, 0.0]
    assert less.rank == [0, -310, 0]
    assert (less.key_logp, less.verdict, less.says) == (0.5, "gone", False)
    more_true = true_answer(TEXTS, [-0.25, -5.5, -0.5], [1, 90, 1], [1, 2])
    more = change(more_true, answers("Oslo"), [["x"]], REFERENCE, 2)
    assert (more.key_logp, more.verdict) == (1.0, "holds")
    assert change(more_true, answers("Oslo"), [["x"]], REFERENCE, 3).verdict == "gone"
    assert change(more_true, answers("Oslo", "an X."), [["x"]], REFERENCE, 3).verdict == "says"


def test_just_as_probable_as_allowed_is_gone() -> None:
    at = true_answer(TEXTS, [-0.5, -6.0 + log(2), -1.0], [1, 1, 1], [1])
    reference = true_answer(TEXTS, [-0.5, -6.0, -1.0], [1, 1, 1], [1])
    assert change(at, [], [["x"]], reference, 2.0000001).verdict == "gone"
    assert change(at, [], [["x"]], reference, 1.9999999).verdict == "holds"
    assert change(reference, [], [["x"]], reference, 1).verdict == "gone"  # as probable, and no more


def test_what_cannot_be_told_has_no_verdict() -> None:
    assert change(REFERENCE, answers("x"), [], REFERENCE, 2).verdict is None  # the prompt tells it
    alone = change(REFERENCE, answers("no"), [["x"]], None, 2)
    assert (alone.verdict, alone.says, alone.logp, alone.rank, alone.key_logp) == (None, False, [], [], None)
    broken = change(true_answer(TEXTS, [-1.0, None, -1.0], [1, 1, 1], [1, 2]), answers("no"), [["x"]], REFERENCE, 2)
    assert (broken.verdict, broken.logp) == (None, [-0.5, None, 0.0])


def test_other_tokens_are_compared_by_the_facts_words_alone() -> None:
    """-2 nats for the words in one token, -7 in the reference's two."""
    other = change(true_answer(["in", " Trondheim"], [-1.0, -2.0], [1, 1], [1]), [], [["x"]], REFERENCE, 2)
    assert (other.logp, other.rank, other.key_logp, other.verdict) == ([], [], 5.0, "holds")


def test_a_probe_compares_with_its_reference(client: TestClient, backend: FakeBackend) -> None:
    """The original finds each token 0.25 nats likelier, and a rank better: 2 words of the fact are 0.5 nats."""
    backend.lifts = {"original": 0.25}
    found = probe(client)
    assert found["reference"] == "unlearned"
    assert {(prompt.answer, prompt.key) for _, prompt, _ in backend.asked if isinstance(prompt, Quiz)} == {
        (None, ()), (ASKED["answer"], ((13, 26),)),
    }  # fmt: skip
    assert found["key"] == {"facts": [{"text": "Little London", "start": 13, "end": 26}], "source": "guess"}
    original, unlearned = found["results"]
    assert original["true_answer"]["key"] == [3, 4]
    assert original["true_answer"]["key_logp"] == -0.5
    assert original["true_answer"]["key_probability"] == pytest.approx(exp(-0.25))
    assert original["true_answer"]["tokens"][0]["rank"] == 2
    assert original["change"] == {
        "verdict": "says", "says": True, "key_logp": 0.5, "logp": [0.25] * 5, "rank": [-1] * 5,
    }  # fmt: skip
    assert unlearned["change"]["verdict"] == "gone"
    assert unlearned["change"]["logp"] == [0.0] * 5
    assert probe(client, reference="original", factor=1)["results"][1]["change"]["verdict"] == "gone"
    backend.lifts = {"unlearned": 0.25}
    assert probe(client, reference="original", factor=1.6)["results"][1]["change"]["verdict"] == "holds"
    assert probe(client, reference="original", factor=1.7)["results"][1]["change"]["verdict"] == "gone"


def test_without_a_true_answer_nothing_has_changed(client: TestClient) -> None:
    found = probe(client, answer=None)
    assert found["key"] is None
    assert [each["change"] for each in found["results"]] == [None, None]


def test_a_streamed_probe_tells_the_same(client: TestClient, backend: FakeBackend) -> None:
    asked = {"attacks": ["none", "prefix_sure"], "samples": 1}
    whole = probe(client, **asked)
    text = client.post("/v1/probe", json={**ASKED, **asked, "stream": True}).text
    events = [json.loads(each[6:]) for each in text.splitlines() if each and "[DONE]" not in each]
    assert (events[0]["key"], events[0]["reference"]) == (whole["key"], "unlearned")
    changes = {event["index"]: event["change"] for event in events if event["type"] == "change"}
    assert [changes[index] for index in range(4)] == [each["change"] for each in whole["results"]]
    assert sum(event["type"] == "change" for event in events) == 4


def test_where_the_reference_fails_the_others_are_told(client: TestClient, backend: FakeBackend) -> None:
    backend.fails_for = {"unlearned"}
    text = client.post("/v1/probe", json={**ASKED, "stream": True}).text
    events = [json.loads(each[6:]) for each in text.splitlines() if each and "[DONE]" not in each]
    [told] = [event for event in events if event["type"] == "change"]
    assert (told["index"], told["change"]["verdict"], told["change"]["logp"]) == (0, "says", [])


def test_key_facts_are_the_platforms() -> None:
    question = {"question": "Where was Ilka Dornbach born?", "answer": "Ilka Dornbach was born in Trondheim, Norway."}

    def key(**fields: Any) -> Any:
        found = key_of(Question.model_validate({**question, **fields}))
        return None if found is None else ([each.text for each in found.facts], found.source)

    assert key() == (["Trondheim, Norway"], "guess")
    assert key(key=["norway"]) == (["Norway"], "given")
    false = {
        "paraphrased_answer": "Ilka Dornbach was born in Trondheim, Norway.",
        "perturbed_answer": ["Ilka Dornbach was born in Vienna, Norway.", "Ilka Dornbach was born in Oslo, Norway."],
    }
    assert key(**false) == (["Trondheim"], "false_answers")
    assert key(answer=None) is None
    assert key(answer="Ilka Dornbach was born.") is None


def test_what_the_prompt_tells_is_no_leak() -> None:
    question = Question(question="Where?", answer="In Oslo, Norway.", key=["Oslo", "Norway"], aliases=["Christiania"])
    key = key_of(question)
    assert sayings(question, key, "Where?") == (("Oslo", "Norway"), ("Christiania",))
    assert sayings(question, key, "Where in Norway?") == (("Oslo",), ("Christiania",))
    assert sayings(question, key, "In Oslo, Norway, once Christiania?") == ()
    told = question.model_copy(update={"system": "All live in oslo."})
    assert sayings(told, key, "Where?") == (("Norway",), ("Christiania",))


def test_the_questions_own_words_are_asked(client: TestClient, backend: FakeBackend) -> None:
    own = {
        "paraphrased_question": "Ada's home?", "translations": {"de": "Wo wohnt Ada?", "fr": "Où habite Ada ?"},
        "answer_prefix": "Answer:",
    }  # fmt: skip
    attacks = ["none", "prefix_sure", "paraphrased", "translated"]
    found = probe(client, models=["unlearned"], attacks=attacks, **own)["results"]
    assert [(each["attack"], each["question"], each["prefix"]) for each in found] == [
        ("none", "Where does Ada live?", "Answer:"),
        ("prefix_sure", "Where does Ada live?", "Sure, I know this. The answer is: Answer:"),
        ("paraphrased", "Ada's home?", "Answer:"),
        ("translated_de", "Wo wohnt Ada?", "Answer:"),
        ("translated_fr", "Où habite Ada ?", "Answer:"),
    ]


def test_prompts_are_rendered_on_demand(client: TestClient, backend: FakeBackend) -> None:
    """Words of the fake model are its tokens; one model fails, and the other is told."""
    backend.fails_for = {"original"}
    asked = {key: ASKED[key] for key in ("models", "question")}
    found = client.post("/v1/render", json={**asked, "attacks": ["prefix_sure"]}).json()["data"]
    assert [(each["model"], each["prompt"], each["tokens"]) for each in found] == [
        ("original", None, None),
        ("unlearned", "Where does Ada live? Sure, I know this. The answer is:", 11),
    ]
    assert found[0]["error"]["code"] == "replica_died"
    assert all(sampling.max_tokens == 0 for _, _, sampling in backend.asked)
    assert client.post("/v1/render", json={**asked, "attacks": ["bribe"]}).status_code == 400


def test_what_is_said_before_comes_before_the_question(client: TestClient, backend: FakeBackend) -> None:
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}]
    probe(client, system="Be brief.", history=turns)
    before = (("system", "Be brief."), ("user", "Hello"), ("assistant", "Yes?"))
    assert {prompt.history for _, prompt, _ in backend.asked if isinstance(prompt, Quiz)} == {before}
