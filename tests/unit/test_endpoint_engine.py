"""A hosted model's engine: how a server is asked, what of its answers counts, what is kept, what it may cost."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hosting import CHAT, COMPLETIONS, KEY, SAID, Hosted, hosting, spec_of
from obliviate.data.text import Encoded
from obliviate.errors import UserError
from obliviate.inference.endpoint import EndpointEngine
from obliviate.inference.engine import Generation, ScoredText
from obliviate.inference.journal import Journal
from obliviate.inference.server import TRIAL, Pace, Server
from obliviate.models import load_pretrained, load_tokenizer, stop_ids
from obliviate.schema import EngineSpec, GenerationSpec, HostedSpec, ModelSpec

VARIABLE = "TEST_HOSTED_KEY"
GREEDY = GenerationSpec(max_new_tokens=4)
SAMPLED = GenerationSpec(max_new_tokens=4, temperature=1.0, samples=20)


@pytest.fixture
def hosted() -> Iterator[Hosted]:
    with hosting() as found:
        yield found


def engine(hosted: Hosted, tiny: Path, template: str | None = None, **keys: Any) -> EndpointEngine:
    model = ModelSpec(source=str(tiny), chat_template=template)
    return EndpointEngine.open(model, EngineSpec(max_model_len=64), Server(spec_of(hosted, **keys)))


def test_a_server_like_vllm_gets_token_ids_and_every_default_turned_off(hosted: Hosted, tiny: Path) -> None:
    tokenizer = load_tokenizer(ModelSpec(source=str(tiny)))
    [[said]] = engine(hosted, tiny).generate([(5, 6, 7)], GREEDY)
    assert said == Generation(SAID, tuple(tokenizer(SAID).input_ids), True)
    [_, asked] = hosted.bodies
    assert asked == {
        "model": "hosted", "prompt": [5, 6, 7], "max_tokens": 4, "temperature": 0.0, "top_p": 1.0, "n": 1, "top_k": 0,
        "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True,
        "stop_token_ids": sorted(stop_ids(ModelSpec(source=str(tiny)), tokenizer)),
    }  # fmt: skip


def test_a_server_that_takes_openais_keys_alone_gets_those(hosted: Hosted, tiny: Path) -> None:
    hosted.refuses = lambda _, body: 400 if "top_k" in body else None
    [[said]] = engine(hosted, tiny).generate([(5, 6, 7)], GenerationSpec(max_new_tokens=3))
    assert not said.finished
    assert hosted.bodies[-1]["prompt"] == [5, 6, 7]
    assert set(hosted.bodies[-1]) == {"model", "prompt", "max_tokens", "temperature", "top_p", "n"}


def test_a_server_that_refuses_token_ids_gets_their_text(hosted: Hosted, tiny: Path) -> None:
    hosted.refuses = lambda _, body: 422 if isinstance(body["prompt"], list) else None
    ids = tuple(load_tokenizer(ModelSpec(source=str(tiny)))("<|im_start|>Who lives?<|im_end|>").input_ids)
    engine(hosted, tiny).generate([ids], GREEDY)
    assert hosted.bodies[-1]["prompt"] == "<|im_start|>Who lives?<|im_end|>"


def test_a_server_of_chats_gets_the_raw_text_as_a_message(hosted: Hosted, tiny: Path) -> None:
    hosted.routes = {CHAT}
    hosted.refuses = lambda _, body: 400 if "max_tokens" in body else None
    ids = tuple(load_tokenizer(ModelSpec(source=str(tiny)))("Where does Ada live?").input_ids)
    chat = engine(hosted, tiny, "raw")
    [[said]] = chat.generate([ids], GREEDY)
    assert said.text == SAID
    assert hosted.bodies[-1] == {
        "model": "hosted", "messages": [{"role": "user", "content": "Where does Ada live?"}], "temperature": 0.0,
        "max_completion_tokens": 4, "top_p": 1.0, "n": 1,
    }  # fmt: skip
    assert chat.score([Encoded((1, 2, 3), 1)]) == [ScoredText((), ())]
    with pytest.raises(
        UserError, match=r"chat_template: null: .* takes chat messages alone.* set model.chat_template: raw"
    ):
        engine(hosted, tiny)


@pytest.mark.parametrize("scores", ["echo", "vllm"])
def test_scores_are_read_from_what_the_server_gives(hosted: Hosted, tiny: Path, scores: str) -> None:
    hosted.scores = scores
    texts = [Encoded((5, 6, 7, 8), 2), Encoded((9, 10), 2), Encoded((3, 4), 1)]
    found = engine(hosted, tiny).score(texts)
    assert found[0].logp == pytest.approx((-0.07, -0.08))
    assert found[0].greedy == (False, True)
    assert found[1] == ScoredText((), ())  # no answer: nothing is asked
    assert found[2].logp == pytest.approx((-0.04,))
    assert len(hosted.asked) == {"echo": 1 + 1, "vllm": 1 + 2}[scores] + 2


@pytest.mark.parametrize("refusal", [None, 400])
def test_a_server_without_log_probabilities_leaves_texts_unscored(
    hosted: Hosted, tiny: Path, refusal: int | None
) -> None:
    hosted.scores = ""
    hosted.refuses = lambda _, body: refusal if "echo" in body or "prompt_logprobs" in body else None
    found = engine(hosted, tiny)
    assert not found.scores
    assert found.score([Encoded((5, 6, 7), 1)]) == [ScoredText((), ())]
    assert len(hosted.asked) == 1 + 2


def test_samples_are_asked_for_until_there_are_enough_and_each_request_has_its_seed(hosted: Hosted, tiny: Path) -> None:
    found = engine(hosted, tiny)
    [said] = found.generate([(5, 6)], SAMPLED)
    assert len(said) == 20
    first, second = hosted.bodies[1:]
    assert (first["n"], second["n"]) == (16, 4)
    assert second["seed"] == first["seed"] + 16
    hosted.most = 1
    [said] = found.generate([(5, 6)], SAMPLED)
    assert len(said) == 20
    assert len(hosted.asked) == 3 + 20


def test_no_room_asks_nothing_and_a_text_that_is_too_long_is_told(hosted: Hosted, tiny: Path) -> None:
    found = engine(hosted, tiny)
    assert found.generate([tuple(range(64))], GREEDY) == [[Generation("", (), False)]]
    assert len(hosted.asked) == 1
    with pytest.raises(UserError, match=r"engine.max_model_len=64: a text of 65 tokens"):
        found.score([Encoded(tuple(range(65)), 3)])


def test_failures_are_tried_again_and_what_was_answered_is_kept(hosted: Hosted, tiny: Path, tmp_path: Path) -> None:
    """The third prompt fails for good; the next run asks for it, and for nothing that was answered."""
    statuses = {(1,): [503, 429, None], (3,): [503, 503, 503]}
    hosted.refuses = lambda _, body: (
        statuses.get(tuple(body["prompt"]), [None]).pop(0) if statuses.get(tuple(body["prompt"])) else None
    )
    prompts = [(1,), (2,), (3,), (4,)]
    with pytest.raises(UserError, match=r"hosted at http://127.*503.*what was answered is kept"):
        Journal(engine(hosted, tiny), tmp_path / "answers").generate(prompts, GREEDY)
    asked = [tuple(body["prompt"]) for body in hosted.bodies[1:]]
    assert asked[:7] == [(1,)] * 3 + [(2,)] + [(3,)] * 3
    hosted.asked.clear()
    again = Journal(engine(hosted, tiny), tmp_path / "answers").generate(prompts, GREEDY)
    assert [said.text for (said,) in again] == [SAID] * 4
    left = [tuple(body["prompt"]) for body in hosted.bodies[1:]]
    assert sorted({*asked, *left}) == prompts
    assert left == [(3,), (4,)][: len(left)]


def test_a_prompt_that_is_refused_for_good_is_an_empty_answer(hosted: Hosted, tiny: Path) -> None:
    """By a filter, say: it is asked once, the others are answered, and what was said is kept for a warning."""
    hosted.refuses = lambda _, body: 400 if body["prompt"][:1] == [3] else None
    found = engine(hosted, tiny)
    said = found.generate([(1,), (3,), (2,)], GREEDY)
    assert [each.text for (each,) in said] == [SAID, "", SAID]
    assert [body["prompt"] for body in hosted.bodies[1:]].count([3]) == 1
    scored = found.score([Encoded((5, 6, 7, 8), 2), Encoded((3, 6, 7, 8), 2)])
    assert [len(each.logp) for each in scored] == [2, 0]
    assert ["Error code: 400" in each for each in found._server.refused] == [True, True]


def test_a_server_that_refuses_every_prompt_is_told(hosted: Hosted, tiny: Path) -> None:
    found = engine(hosted, tiny)
    hosted.refuses = lambda _, body: 422
    with pytest.raises(UserError, match=r"hosted at http://127.*422"):
        found.generate([(1,), (2,)], GREEDY)
    assert found._server.refused == []


ASKING = """
import sys
from pathlib import Path

from hosting import HostedSpec
from obliviate.inference.endpoint import EndpointEngine
from obliviate.inference.journal import Journal
from obliviate.inference.server import Server
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec

url, tiny, folder = sys.argv[1:]
server = Server(HostedSpec(base_url=url, model="hosted", retries=0, concurrency=2))
engine = EndpointEngine.open(ModelSpec(source=tiny), EngineSpec(max_model_len=64), server)
Journal(engine, Path(folder)).generate([(n,) for n in range(1, 9)], GenerationSpec(max_new_tokens=4))
"""


def test_a_killed_process_is_continued_without_asking_again(hosted: Hosted, tiny: Path, tmp_path: Path) -> None:
    """Killed while the server keeps two of eight requests waiting: those two are asked again, and the ones behind."""
    answers, stuck, go_on = tmp_path / "answers", threading.Semaphore(0), threading.Event()

    def hold(_: str, body: dict[str, Any]) -> None:
        if body["prompt"] in ([5], [6]) and not go_on.is_set():
            stuck.release()
            hosted.lock.release()  # others are answered meanwhile
            go_on.wait()
            hosted.lock.acquire()

    hosted.refuses = hold
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", ASKING, hosted.url, str(tiny), str(answers)], env=environment
    ) as process:
        stuck.acquire()
        stuck.acquire()
        while len(list(answers.glob("*.json"))) < 4:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    go_on.set()
    hosted.asked.clear()
    said = Journal(engine(hosted, tiny), answers).generate([(n,) for n in range(1, 9)], GREEDY)
    assert [each.text for (each,) in said] == [SAID] * 8
    assert [body["prompt"] for body in hosted.bodies[1:]] == [[5], [6], [7], [8]]


def test_the_budget_ends_a_run_and_the_next_one_goes_on(hosted: Hosted, tiny: Path, tmp_path: Path) -> None:
    """100 tokens read and 10 written cost 100 * 1 + 10 * 10 = 200 millionths; the trial is the first to."""
    prices = {"price_per_million": {"prompt": 1.0, "completion": 10.0}, "budget": 0.0006}
    prompts = [(n,) for n in range(1, 5)]
    with pytest.raises(UserError, match=r"budget: 0.0006: is used up, 0.0006 by 3 requests.*is kept"):
        Journal(engine(hosted, tiny, **prices), tmp_path / "answers").generate(prompts, GREEDY)
    assert len(hosted.asked) == 3
    assert len(Journal(engine(hosted, tiny, **prices), tmp_path / "answers").generate(prompts, GREEDY)) == 4
    assert [body["prompt"] for body in hosted.bodies[4:]] == [[3], [4]]


def test_a_server_that_does_not_count_is_counted_for(hosted: Hosted, tiny: Path) -> None:
    hosted.counts = False
    server = Server(spec_of(hosted, price_per_million={"prompt": 1e6, "completion": 1e3}))
    model = ModelSpec(source=str(tiny))
    found = EndpointEngine.open(model, EngineSpec(max_model_len=64), server)
    trial = len(load_tokenizer(model)(TRIAL).input_ids)
    assert server.spent == pytest.approx(trial + 0.001)
    found.generate([(1, 2, 3)], SAMPLED)
    assert server.spent == pytest.approx(trial + 0.001 + 2 * 3 + 20 * 4 * 0.001)


def test_requests_go_out_no_faster_than_allowed() -> None:
    """Thirty in a minute are one every two seconds; time that passes meanwhile is not waited for."""
    clock, waited = [10.0], list[float]()

    def pause(seconds: float) -> None:
        waited.append(seconds)
        clock[0] += seconds

    pace = Pace(30, now_s=lambda: clock[0], pause=pause)
    for passes in (0.0, 0.5, 5.0, 0.0):
        pace.wait()
        clock[0] += passes
    pace.wait()
    assert waited == pytest.approx([2.0, 1.5, 2.0])
    free = Pace(None, now_s=lambda: clock[0], pause=pause)
    free.wait()
    free.wait()
    assert len(waited) == 3


def test_the_pace_holds_for_retries_too(hosted: Hosted, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_through: list[int] = []
    monkeypatch.setattr(Pace, "wait", lambda _: let_through.append(1))
    statuses = [503, 503]
    hosted.refuses = lambda _, __: statuses.pop() if statuses else None
    engine(hosted, tiny)
    assert len(let_through) == len(hosted.asked) == 3


def test_what_is_wrong_is_told_by_a_trial_in_one_line(
    hosted: Hosted, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistake(**keys: Any) -> str:
        with pytest.raises(UserError) as told:
            engine(hosted, tiny, **keys)
        assert "\n" not in str(told.value)
        assert KEY not in str(told.value)
        return str(told.value)

    assert "model.endpoint.api_key_env: NO_SUCH_KEY: no such variable" in mistake(api_key_env="NO_SUCH_KEY")
    assert "model.endpoint.base_url: http://127.0.0.1:9/v1: no answer after 0 retries" in mistake(
        base_url="http://127.0.0.1:9/v1", retries=0
    )
    monkeypatch.setenv(VARIABLE, KEY)
    hosted.refuses = lambda _, __: 401
    assert f"model.endpoint.api_key_env: {VARIABLE}: {hosted.url} refuses the key" in mistake(api_key_env=VARIABLE)
    assert hosted.keys == {f"Bearer {KEY}"}
    assert len(hosted.asked) == 1  # no other way would mend it
    hosted.refuses = lambda _, __: 404
    assert f"model.endpoint.model: hosted: {hosted.url} does not know it" in mistake(api_key_env=VARIABLE)
    hosted.routes, hosted.refuses = {COMPLETIONS, CHAT}, lambda path, _: 404 if path == COMPLETIONS else 400
    assert "hosted at http://127.0.0.1:" in mistake(api_key_env=VARIABLE)
    hosted.refuses, hosted.most = lambda *_: None, 0
    assert f"model.endpoint.base_url: {hosted.url}: answers, but not as OpenAI's interface does" in mistake()


def test_what_needs_weights_is_refused(hosted: Hosted, tiny: Path) -> None:
    found = engine(hosted, tiny)
    with pytest.raises(UserError, match=r"moments.* needs the model's weights"):
        found.moments([Encoded((1, 2), 1)])
    with pytest.raises(UserError, match="gradient's norm needs the model's weights"):
        found.gradient_norms([Encoded((1, 2), 1)])
    import torch

    with pytest.raises(UserError, match=r"model.endpoint: hosted is hosted, and this needs its weights"):
        load_pretrained(ModelSpec(source=str(tiny), endpoint=spec_of(hosted)), dtype=torch.float32)


def test_a_budget_needs_prices_and_no_key_stands_in_a_config() -> None:
    with pytest.raises(ValidationError, match="give price_per_million"):
        HostedSpec(base_url="http://host/v1", model="m", budget=1.0)
    with pytest.raises(ValidationError, match="names no environment variable"):
        HostedSpec(base_url="http://host/v1", model="m", api_key_env=KEY)
    assert "endpoint" not in ModelSpec(source="org/model").model_dump()  # hashes of models at hand stay as they were
