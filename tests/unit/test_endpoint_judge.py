"""A judge behind an OpenAI-compatible endpoint: what it is asked, what of its replies counts, what is kept."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hosting import Stub, running
from measured import record
from obliviate.config_file import RunSpec, build
from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate.runs import RUN_FILE, write_json
from obliviate_eval.asked import suite_of
from obliviate_eval.judges import Judges
from obliviate_eval.judges.endpoint import CUT, NOTHING_SAID, TRIAL, UNCLEAR, EndpointJudge
from obliviate_eval.judges.load import load_judges
from obliviate_eval.judges.prompt import filled, read_prompt, verdict
from obliviate_eval.metrics import JudgeAgreement, Judged, JudgeKappa
from obliviate_eval.records import RECORDS_FILE, Record, read_records, write_records
from obliviate_eval.spec import EvaluationSpec, JudgeSpec
from obliviate_eval.summary import draw, summarise
from obliviate_recipes.rescore import rescore
from recipes import Told
from serving import FakeBackend, fake_server, listening

KEY, VARIABLE = "sk-very-secret", "TEST_JUDGE_KEY"


class Endpoint(Stub):
    """Answers by the answer that stands in the prompt: `replies` holds (status, text, finish reason) of each, in turn.

    The trial question, and what is not in `replies`, gets "yes".
    """

    def __init__(self) -> None:
        super().__init__()
        self.replies: dict[str, list[tuple[int, str, str]]] = {}
        self.asked: list[dict[str, Any]] = []
        self.at_once = self.most = 0

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            self.asked.append(body)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            prompt = body["messages"][0]["content"]
            waiting = next((each for answer, each in self.replies.items() if answer in prompt), [(200, "yes", "stop")])
            status, text, reason = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        threading.Event().wait(0.02)  # others come meanwhile, if they may
        with self.lock:
            self.at_once -= 1
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
        return status, reply if status == 200 else {"error": {"message": text}}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with running(Endpoint()) as found:
        yield found


def spec_of(endpoint: Endpoint, **keys: Any) -> JudgeSpec:
    return JudgeSpec.model_validate({"base_url": endpoint.url, "model": "judge", "retries": 2} | keys)


def case(answer: str) -> tuple[str, str, str]:
    return "Where does Ada live?", "Ada lives in Paris.", answer


def test_failures_are_tried_again_and_then_count_as_unanswered(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.replies = {
        "said after two": [(500, "down", ""), (429, "slow down", ""), (200, "It is told.\n**No**", "stop")],
        "never said": [(503, "down", "")],
        "refused": [(400, "content policy", "")],
        "unclear": [(200, "Well, yes and no.", "stop")],
        "silent": [(200, "", "stop")],
        "cut off": [(200, "yes", "length")],
    }
    judge = EndpointJudge(spec_of(endpoint), tmp_path)
    answers = [*endpoint.replies, "plain", "never said"]
    assert judge([case(answer) for answer in answers]) == [False, None, None, None, None, None, True, None]
    assert judge.unanswered == {
        "Error code: 503 - down": 2,
        "Error code: 400 - content policy": 1,
        UNCLEAR: 1,
        NOTHING_SAID: 1,
        CUT: 1,
    }
    tries = [sum(answer in each["messages"][0]["content"] for each in endpoint.asked) for answer in endpoint.replies]
    assert tries == [3, 3, 1, 1, 1, 1]  # two retries, and none of what the endpoint refuses for good


def test_a_second_run_asks_nothing_and_another_question_does(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.replies = {"no leak": [(200, "no", "stop")]}
    cases = [case("no leak"), case("a leak"), case("a leak")]
    assert EndpointJudge(spec_of(endpoint), tmp_path)(cases) == [False, True, True]
    assert len(endpoint.asked) == 3  # the trial, and two distinct answers
    assert EndpointJudge(spec_of(endpoint, concurrency=1, retries=0), tmp_path)(cases) == [False, True, True]
    assert len(endpoint.asked) == 3
    EndpointJudge(spec_of(endpoint, temperature=None, max_tokens=None), tmp_path)(cases)
    assert len(endpoint.asked) == 6
    assert set(endpoint.asked[-1]) == {"model", "messages"}
    own = tmp_path / "own.txt"
    own.write_text("Fact {reference}, said {answer}: {json} yes or no?", encoding="utf-8")
    EndpointJudge(spec_of(endpoint, prompt=str(own)), tmp_path)([case("{reference}")])
    assert endpoint.asked[-1]["messages"][0]["content"] == (
        "Fact Ada lives in Paris., said {reference}: {json} yes or no?"
    )


def test_a_damaged_reply_is_asked_for_again(endpoint: Endpoint, tmp_path: Path) -> None:
    """One that still parses, too: a flipped letter may turn a verdict."""
    endpoint.replies = {"no leak": [(200, "no", "stop")] * 2}
    assert EndpointJudge(spec_of(endpoint), tmp_path)([case("no leak")]) == [False]
    (kept,) = (path for path in tmp_path.glob("*.json") if "no leak" in path.read_text())
    kept.write_text(kept.read_text().replace('"reply": "no"', '"reply": "yes"'))
    assert EndpointJudge(spec_of(endpoint), tmp_path)([case("no leak")]) == [False]
    assert len(endpoint.asked) == 3  # the trial, the answer, and the answer again


def test_no_more_requests_at_a_time_than_allowed(endpoint: Endpoint, tmp_path: Path) -> None:
    EndpointJudge(spec_of(endpoint, concurrency=3), tmp_path)([case(f"answer {n}") for n in range(12)])
    assert endpoint.most == 3


def test_the_key_goes_to_the_endpoint_and_nowhere_else(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    endpoint.replies = {"wrong": [(401, f"wrong key {KEY}", "")]}
    judge = EndpointJudge(spec_of(endpoint, api_key_env=VARIABLE), tmp_path)
    judge([case("wrong"), case("right")])
    EndpointJudge(spec_of(endpoint, temperature=1), tmp_path)
    assert endpoint.keys == {f"Bearer {KEY}", "Bearer none"}  # never that of another endpoint
    assert list(judge.unanswered) == ["Error code: 401 - wrong key ..."]
    assert not any(KEY in path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.json"))


def test_what_is_wrong_is_told_before_anything_is_generated(endpoint: Endpoint, tmp_path: Path) -> None:
    def mistake(**keys: Any) -> str:
        with pytest.raises(UserError) as told:
            EndpointJudge(spec_of(endpoint, **keys), tmp_path)
        assert "\n" not in str(told.value)
        return str(told.value)

    assert "api_key_env: NO_SUCH_KEY: no such variable in the environment; export it" in mistake(
        api_key_env="NO_SUCH_KEY"
    )
    assert "prompt: no/such.txt: is no text file" in mistake(prompt="no/such.txt")
    (tmp_path / "p.txt").write_text("Is it {reference}?", encoding="utf-8")
    assert "p.txt: has no {answer}; write {reference} and {answer}" in mistake(prompt=str(tmp_path / "p.txt"))
    gone = "http://127.0.0.1:9/v1"
    assert f"judge at {gone}: no verdict on a trial question (Connection error.)" in mistake(base_url=gone, retries=0)
    endpoint.replies = {TRIAL[2]: [(404, "no such model", "")]}
    assert "Error code: 404 - no such model" in mistake()
    endpoint.replies = {TRIAL[2]: [(200, "As an AI I may not judge.", "stop")]}
    assert UNCLEAR in mistake()


class Config(RunSpec):
    evaluation: EvaluationSpec


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"api_key_env": KEY}, "evaluation.judge: api_key_env: names no environment variable"),
        ({"base_url": f"https://me:{KEY}@host/v1"}, "evaluation.judge: base_url: holds a password"),
        ({"base_url": "localhost:8000"}, "evaluation.judge.base_url: String should match pattern"),
    ],
)
def test_a_key_in_the_config_is_refused_and_not_repeated(keys: dict[str, str], message: str) -> None:
    judge = {"type": "endpoint", "base_url": "http://host/v1", "model": "judge"} | keys
    with pytest.raises(UserError) as told:
        build(Config, {"evaluation": {"judge": judge}}, where="config.yaml")
    assert message in str(told.value)
    assert KEY not in str(told.value)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("yes", True),
        ("**NO**.", False),
        ("The fact is Yesterday.\nVerdict: yes\n", True),
        ("No, it tells nothing; the reader knows nothing.", False),
        ("<think>no, wait</think>\n\nYes", True),
        ("<think>no end of thinking: yes", None),
        ("There is no doubt: yes", None),
        ("", None),
        ("yes\nI hope this helps!", None),
        ("nothing", None),
    ],
)
def test_what_a_reply_says(reply: str, expected: bool | None) -> None:
    assert verdict(reply) is expected


@pytest.mark.parametrize("name", ["reveals", "agrees"])
def test_shipped_prompts_hold_all_three_texts(name: str) -> None:
    prompt = filled(read_prompt(name), ("Q?", "R.", "A!"))
    assert all(text in prompt for text in ("<question>\nQ?\n", "R.", "<answer>\nA!\n"))
    assert not {"{question}", "{reference}", "{answer}"} & set(prompt.split())


def judged_records() -> list[Record]:
    """Judge: yes, yes, no, no, none, no; NLI model: yes, no, no, no, yes, not asked."""
    said = [True, True, False, False, None, False]
    labels = ["entailment", "neutral", "neutral", "contradiction", "entailment", None]
    return [
        record(Role.FORGET, index=i, generation="x", verdict=verdict, entailment=label)
        for i, (verdict, label) in enumerate(zip(said, labels, strict=True))
    ]


def test_agreement_with_the_nli_model() -> None:
    """Of the four with both verdicts three are equal. By chance: 1/2 * 1/4 + 1/2 * 3/4 = 1/2, so kappa is
    (3/4 - 1/2) / (1 - 1/2) = 1/2."""
    samples = draw(judged_records(), resamples=200, seed=0)
    agreement, kappa = JudgeAgreement().estimate(samples), JudgeKappa().estimate(samples)
    assert (agreement.value, agreement.scored, agreement.unscored) == (0.75, 4, 2)
    assert kappa.value == pytest.approx(0.5)
    assert (kappa.scored, kappa.unscored) == (4, 2)
    alike = [each for each in judged_records() if each.verdict is False and each.entailment is not None]
    assert JudgeKappa().estimate(draw(alike, resamples=10, seed=0)).value is None  # both only ever said no


def test_no_verdict_is_unscored_and_never_no_leak(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.replies = {"down": [(503, "down", "")], "safe": [(200, "no", "stop")]}
    spec = EvaluationSpec(suite="tofu", judge=spec_of(endpoint), encoder=None)
    suite = suite_of(spec)
    answers = ("leak", "down", "safe", None)
    records = [record(Role.FORGET, index=i, generation=answer) for i, answer in enumerate(answers)]
    judged = load_judges(spec, tmp_path).judge(records, suite)
    assert [each.verdict for each in judged] == [True, None, False, None]
    write_records(tmp_path / "records.parquet", judged)
    assert read_records(tmp_path / "records.parquet") == judged
    figure = summarise(judged, suite, resamples=100).sets["forget"]["judged"]
    assert (figure.value, figure.scored, figure.unscored) == (0.5, 2, 2)
    assert [Judged().score(each) for each in judged] == [1, None, 0, None]


def test_a_suite_without_a_judge_stays_as_it_is_and_named_sets_are_judged_where_they_generate() -> None:
    judge = JudgeSpec(base_url="http://host/v1", model="judge")
    names = {metric.type for metric in suite_of(EvaluationSpec(suite="custom")).metrics}
    assert "judged" not in names
    muse = suite_of(EvaluationSpec(suite="muse", judge=judge))
    assert "judged" in muse.sets["verbatim"]
    assert "judged" not in muse.sets["forget"]  # plain texts, which nothing is generated for
    assert [each.type for each in muse.comparisons if each.type.startswith("judge")] == []  # no NLI model to compare
    compared = suite_of(EvaluationSpec(suite="closer_look", judge=judge))
    assert [each.type for each in compared.comparisons] == ["judge_agreement", "judge_kappa"]
    assert suite_of(EvaluationSpec(suite="closer_look", judge=judge, nli=None)).comparisons == ()
    assert Judges().judge(judged_records(), compared) == judged_records()  # loaded without one: nothing is asked


def test_our_own_server_is_such_an_endpoint(tmp_path: Path) -> None:
    backend = FakeBackend({"original": "It is told. Yes", "unlearned": "no"})
    with listening(fake_server(tmp_path, backend, http={})) as url:
        for model, expected in (("original", True), ("unlearned", False), ("production", True)):
            spec = JudgeSpec(base_url=f"{url}/v1", model=model)
            assert EndpointJudge(spec, tmp_path / "judged")([case("in Paris")]) == [expected]
        with pytest.raises(UserError, match=r"Error code: 404 .*no-such-model"):
            EndpointJudge(JudgeSpec(base_url=f"{url}/v1", model="no-such-model"), tmp_path / "judged")


def test_answers_of_a_finished_evaluation_are_judged(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.replies, told = {"safe": [(200, "no", "stop")], "down": [(503, "down", "")]}, Told()
    run = tmp_path / "runs" / "evaluate-model"
    labels = {"leak": "entailment", "safe": "neutral", "down": "neutral"}
    records = [
        record(Role.FORGET, index=i, generation=said, entailment=label)
        for i, (said, label) in enumerate(labels.items())
    ]
    write_records(run / RECORDS_FILE, records)
    evaluation = {"suite": "closer_look", "resamples": 100, "seed": 0, "nli": "org/nli"}
    config = {"evaluation": evaluation, "model": {"source": "org/base"}}
    write_json(run / RUN_FILE, {"verb": "evaluate", "label": "model", "config": config})
    judge = tmp_path / "judge.yaml"
    judge.write_text(f"{{type: endpoint, base_url: '{endpoint.url}', model: judge, retries: 0}}", encoding="utf-8")
    for _ in range(2):
        rescore([run], [], None, None, tmp_path / "figures.json", judge, events=told)
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))[str(run)]
    judged = found["sets"]["forget"]["judged"]
    assert (judged["value"], judged["scored"], judged["unscored"]) == (0.5, 2, 1)
    assert (found["comparisons"]["judge_agreement"]["value"], found["comparisons"]["judge_kappa"]["value"]) == (1, 1)
    assert len(endpoint.asked) == 1 + 3 + 1  # what has no reply is asked for again
    assert "warning: evaluate-model: evaluation.judge: no verdict on 1 answers, which count as unscored" in told.text
    assert read_records(run / RECORDS_FILE) == records
