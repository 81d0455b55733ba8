"""Tasks of the lm-evaluation-harness on our engine, against the model itself; a task of our own from local files."""

import json
from collections.abc import Sequence
from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from measured import evaluate
from obliviate.data.text import Encoded, TextEncoder
from obliviate.data.wmdp_forms import WmdpClozeData
from obliviate.errors import UserError
from obliviate.inference.engine import Generation, ScoredText
from obliviate.inference.hf import HFEngine
from obliviate.models import load_pretrained
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec
from obliviate_eval.judges import Judges
from obliviate_eval.spec import EvaluationSpec, HarnessSpec
from tiny import tiny_model_folder

pytest.importorskip("lm_eval", reason="the lm-evaluation-harness is not installed")

from obliviate_eval.harness import EngineLM, figures, run_tasks

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tiny_model_folder(tmp_path_factory.mktemp("tiny"))
    return load_pretrained(ModelSpec(source=str(folder)), dtype=torch.float32)


class Counting(HFEngine):
    """Keeps what it was asked in each call."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.calls: list[int] = []
        self.rounds: list[tuple[int, GenerationSpec]] = []

    def score(self, texts: Sequence[Encoded]) -> list[ScoredText]:
        self.calls.append(len(texts))
        return super().score(texts)

    def generate(self, prompts: Sequence[tuple[int, ...]], sampling: GenerationSpec) -> list[list[Generation]]:
        self.rounds.append((len(prompts), sampling))
        return super().generate(prompts, sampling)


@pytest.fixture
def engine(loaded: Loaded) -> Counting:
    return Counting(*loaded, EngineSpec(type="hf", dtype="float32"), {loaded[1].eos_token_id})


def request(*arguments: Any) -> SimpleNamespace:
    return SimpleNamespace(args=arguments)


def loglikelihood(loaded: Loaded, context: list[int], continuation: list[int]) -> float:
    with torch.inference_mode():
        logp_TV = loaded[0](torch.tensor([context + continuation])).logits[0].log_softmax(-1)
    return sum(logp_TV[len(context) - 1 + i, token].item() for i, token in enumerate(continuation))


def test_loglikelihood_is_the_models(loaded: Loaded, engine: Counting) -> None:
    lm = EngineLM(engine, TextEncoder(loaded[1]), 128)
    tokens = lambda text: list(loaded[1](text).input_ids)  # noqa: E731
    pairs = [("Where does Ada live?", " London"), ("Where does Ada live?", " Paris"), ("", "Paris")]
    found = lm.loglikelihood([request(*pair) for pair in (*pairs, pairs[0])])
    assert engine.calls == [3]  # all requests in one call, the repeated one once
    for (context, continuation), (logp, greedy) in zip(pairs[:2], found, strict=False):
        whole = tokens(context + continuation)
        assert logp == pytest.approx(loglikelihood(loaded, tokens(context), whole[len(tokens(context)) :]), abs=1e-4)
        assert greedy is False
    assert found[2][0] == pytest.approx(loglikelihood(loaded, [loaded[1].bos_token_id], tokens("Paris")), abs=1e-4)
    assert found[3] == found[0]


def test_what_the_model_would_say_is_greedy(loaded: Loaded, engine: Counting) -> None:
    ((said,),) = engine.generate([(5, 6, 7)], GenerationSpec(max_new_tokens=3))
    lm = EngineLM(engine, TextEncoder(loaded[1]), 128)
    assert lm._loglikelihood_tokens([(None, [5, 6, 7], list(said.token_ids))])[0][1] is True


def test_a_long_context_loses_its_beginning(loaded: Loaded, engine: Counting) -> None:
    lm = EngineLM(engine, TextEncoder(loaded[1]), 16)
    ((cut, _),) = lm._loglikelihood_tokens([(None, list(range(3, 40)), [50, 51])])
    ((short, _),) = lm._loglikelihood_tokens([(None, list(range(26, 40)), [50, 51])])  # 14 + 2 tokens
    assert cut == short
    with pytest.raises(UserError, match=r"engine.max_model_len=16: a task's continuation of 16 tokens"):
        lm._loglikelihood_tokens([(None, [3], list(range(4, 20)))])


def test_rolling_windows_cover_each_token_once(loaded: Loaded, engine: Counting) -> None:
    """Of a text of one window: all its tokens after the beginning of sequence. Of more: in windows of 7 tokens."""
    tokenizer = loaded[1]
    text = "Ada Lovelace lives in London, and she writes books about engines."
    ids = list(tokenizer(text).input_ids)
    (whole,) = EngineLM(engine, TextEncoder(tokenizer), 128).loglikelihood_rolling([request(text)])
    assert whole == pytest.approx(loglikelihood(loaded, [tokenizer.bos_token_id], ids), abs=1e-3)
    (windows,) = EngineLM(engine, TextEncoder(tokenizer), 8).loglikelihood_rolling([request(text)])
    assert len(ids) > 14
    assert windows < 0
    assert windows != pytest.approx(whole, abs=1e-3)
    assert engine.calls[1] == -(-len(ids) // 7)


def test_generation_ends_before_the_first_stop_string(loaded: Loaded, engine: Counting) -> None:
    lm = EngineLM(engine, TextEncoder(loaded[1]), 256)
    context = "Where does Ada live?"
    (free,) = lm.generate_until([request(context, {"until": [], "max_gen_toks": 100})])
    stop = free[20:24]
    stopped, other = lm.generate_until(
        [request(context, {"until": [stop, "never said"], "max_gen_toks": 100}),
         request(context, {"until": stop, "max_gen_toks": 5})]
    )  # fmt: skip
    assert stopped == free[: free.index(stop)]
    assert free.startswith(other)
    # Rounds of 32, 32 and 36 tokens are 100; the stop string ends after one; 5 are one round.
    assert [sampling.max_new_tokens for _, sampling in engine.rounds[:3]] == [32, 32, 36]
    assert engine.rounds[-1][1].max_new_tokens == 5


def test_settings_of_generation_reach_the_engine(loaded: Loaded, engine: Counting) -> None:
    lm = EngineLM(engine, TextEncoder(loaded[1]), 64)
    sampled = {"until": ["\n"], "max_gen_toks": 8, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
    lm.generate_until([request("a", sampled), request("b", {"max_gen_toks": 8}), request("c", sampled)])
    assert [(n, s.temperature, s.top_p) for n, s in engine.rounds] == [(2, 0.7, 0.9), (1, 0.0, 1.0)]


def test_repeats_of_a_sampled_request_differ_by_their_seed(loaded: Loaded, engine: Counting) -> None:
    lm = EngineLM(engine, TextEncoder(loaded[1]), 64)
    sampled = {"until": ["\n"], "max_gen_toks": 8, "do_sample": True}
    lm.generate_until([request(text, sampled) for text in ("a", "b", "a", "a")])
    assert [(n, sampling.seed) for n, sampling in engine.rounds] == [(2, 0), (1, 1), (1, 2)]


def test_prompts_that_lose_their_beginning_are_counted(loaded: Loaded, engine: Counting) -> None:
    lm = EngineLM(engine, TextEncoder(loaded[1]), 16)
    lm.generate_until([request("Ada " * 30, {"max_gen_toks": 4}), request("Ada", {"max_gen_toks": 4})])
    lm._loglikelihood_tokens([(None, list(range(4, 24)), [3]), (None, [4], [3])])
    assert lm.cut == 2


@pytest.fixture
def task(tmp_path: Path) -> str:
    """Two tasks' worth of a multiple-choice question in a local file."""
    rows = [
        {"question": f"Where does person {i} live?", "choices": ["London", "Rome"], "gold": i % 2} for i in range(6)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    description = {
        "task": "where",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.json")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    path = tmp_path / "where.yaml"
    path.write_text(yaml.safe_dump(description))
    return str(path)


def test_a_task_from_a_file(loaded: Loaded, engine: Counting, task: str) -> None:
    """Each answer is the model's own choice, by the log-likelihoods of the two."""
    found = run_tasks(engine, TextEncoder(loaded[1]), 128, HarnessSpec(tasks=(task,), limit=5))
    tokens = lambda text: list(loaded[1](text).input_ids)  # noqa: E731
    right = 0
    for i in range(5):
        context = tokens(f"Where does person {i} live?")
        scores = [loglikelihood(loaded, context, tokens(f" {city}")) for city in ("London", "Rome")]
        right += scores.index(max(scores)) == i % 2
    figure = found["where"]["acc"]
    assert figure.value == pytest.approx(right / 5)
    assert (figure.scored, figure.unscored) == (5, 0)
    assert engine.calls == [10]


def test_a_collapsed_model_has_no_figure_and_is_counted(loaded: Loaded, engine: Counting, task: str) -> None:
    class Collapsed(Counting):
        def score(self, texts: Sequence[Encoded]) -> list[ScoredText]:
            return [ScoredText((nan,) * len(text.answer_ids), (False,) * len(text.answer_ids)) for text in texts]

    collapsed = Collapsed(*loaded, EngineSpec(type="hf", dtype="float32"), {0})
    figure = run_tasks(collapsed, TextEncoder(loaded[1]), 128, HarnessSpec(tasks=(task,)))["where"]["acc"]
    assert (figure.value, figure.scored, figure.unscored) == (None, 0, 6)


def test_an_unknown_task_is_a_users_error(loaded: Loaded, engine: Counting) -> None:
    with pytest.raises(UserError, match=r"^evaluation\.harness\.tasks: gsm8: the harness has no such task; .*gsm8k"):
        run_tasks(engine, TextEncoder(loaded[1]), 128, HarnessSpec(tasks=("gsm8",)))


def test_data_that_cannot_be_read_are_a_users_error(loaded: Loaded, engine: Counting, task: str) -> None:
    description = yaml.safe_load(Path(task).read_text())
    description["dataset_kwargs"]["data_files"]["test"] = str(Path(task).with_name("absent.json"))
    Path(task).write_text(yaml.safe_dump(description))
    with pytest.raises(UserError, match=r"^evaluation\.harness\.tasks: .*where\.yaml: the data cannot be read"):
        run_tasks(engine, TextEncoder(loaded[1]), 128, HarnessSpec(tasks=(task,)))


def test_figures_by_hand() -> None:
    """A group of two tasks; the one with an item that was not scored has no value, and so has the group."""
    sample = lambda doc, *logps: {"doc_id": doc, "resps": [[(logp, False)] for logp in logps]}  # noqa: E731
    found = figures(
        {
            "results": {
                "group": {"alias": "group", "acc,none": 0.5, "acc_stderr,none": 0.1},
                "a": {"alias": "a", "acc,none": 0.5, "acc_stderr,none": 0.1, "exact_match,flexible-extract": 0.25},
                "b": {"alias": "b", "acc,none": 0.75, "acc_stderr,none": "N/A"},
            },
            "group_subtasks": {"group": ["a", "b"], "a": [], "b": []},
            "n-samples": {"a": {"original": 9, "effective": 4}, "b": {"original": 2, "effective": 2}},
            "samples": {
                "a": [sample(0, -1.0, -2.0), sample(1, -1.0), sample(2, -3.0), sample(3, -1.0)],
                "b": [sample(0, -1.0), sample(1, nan), sample(1, nan)],
            },
        }
    )
    acc = found["a"]["acc"]
    assert (acc.value, acc.scored, acc.unscored) == (0.5, 4, 0)
    assert (acc.low, acc.high) == pytest.approx((0.5 - 0.196, 0.5 + 0.196))
    assert found["a"]["exact_match,flexible-extract"].low is None
    assert (found["b"]["acc"].value, found["b"]["acc"].unscored) == (None, 1)
    assert (found["group"]["acc"].value, found["group"]["acc"].scored, found["group"]["acc"].unscored) == (None, 5, 1)


def test_wmdps_cloze_form_is_the_harnesss(tmp_path: Path, loaded: Loaded, engine: Counting) -> None:
    """Deep Ignorance's task, on the same questions: the same options are chosen, by log-likelihood per character."""
    options = ["in London", "Paris", "a small town near the sea", "nowhere at all"]
    questions = [
        {"question": f"Where does {name} live?", "choices": options, "answer": place % 4}
        for place, name in enumerate(["Ada", "Bob", "Cy", "Dora", "Eve", "Fay", "Gus", "Hal"])
    ]
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "cloze_compatible.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in questions))
    task = {
        "task": "cloze_form",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "description": "Complete the following biology questions with the correct answer.\n\n",
        "doc_to_text": "Question: {{question.strip()}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc_norm"}],
    }
    (tmp_path / "cloze_form.yaml").write_text(yaml.safe_dump(task))
    encoder = TextEncoder(loaded[1], chat_template="raw")
    tasks = run_tasks(engine, encoder, 128, HarnessSpec(tasks=(str(tmp_path / "cloze_form.yaml"),)))
    sets = WmdpClozeData(source=str(tmp_path)).load().evaluation
    spec = EvaluationSpec(suite="wmdp_cloze", resamples=100)
    found = evaluate(engine, encoder, sets, spec, Judges(), tmp_path)
    published = tasks["cloze_form"]["acc_norm"].value
    assert published not in (None, 0, 1)
    assert found.sets["bio_cloze"]["accuracy"].value == published
