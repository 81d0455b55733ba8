"""Engines in Ray actors: vLLM and Hugging Face say the same, and a pool loses nothing when a replica dies.

A tiny model on the cluster of this machine; each engine is opened once.
"""

import math
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import psutil
import pytest
import ray
import torch

from engines import needs_vllm
from families.zoo import BY_NAME
from families.zoo import write as write_family
from obliviate.data.text import Encoded
from obliviate.errors import UserError
from obliviate.inference import pool as pool_module
from obliviate.inference.engine import Engine, Generation, ScoredText
from obliviate.inference.hf import HFEngine
from obliviate.inference.on_demand import OnDemand
from obliviate.inference.pool import EnginePool
from obliviate.models import load_pretrained, load_tokenizer, text_encoder
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec
from processes import descendants
from tiny import tiny_model_folder

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]

QUESTIONS = ["Who lives in London?", "Where was Basil born?", "What is it?", "Who was the first on the moon in 1969?"]
ANSWERS = ["Ada Lovelace lives in London.", "Kuwait City", "I do not know anything about that.", "Neil Armstrong"]
GREEDY = GenerationSpec(max_new_tokens=16)
SAMPLED = GenerationSpec(max_new_tokens=8, temperature=1.0, top_p=0.9, samples=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    # Heads of 32: the smallest that vLLM's kernels for CPUs take.
    return ModelSpec(source=str(tiny_model_folder(tmp_path_factory.mktemp("tiny"), hidden_size=128)))


def spec(type_: str, dtype: str = "float32", **fields: Any) -> EngineSpec:
    return EngineSpec(type=type_, dtype=dtype, cpus_per_replica=0.5, max_model_len=256, **fields)


def ask(engine: Engine, model: ModelSpec) -> tuple[list[list[Generation]], list[ScoredText]]:
    encoder = text_encoder(model, load_tokenizer(model))
    texts = [encoder.encode(q, a) for q in QUESTIONS for a in ANSWERS]
    return engine.generate([encoder.prompt(q) for q in QUESTIONS], GREEDY), engine.score(texts)


def in_process(model: ModelSpec, dtype: str) -> tuple[list[list[Generation]], list[ScoredText]]:
    return ask(HFEngine.open(model, spec("hf", dtype)), model)


def furthest(some: Sequence[ScoredText], other: Sequence[ScoredText]) -> float:
    """The largest difference between two engines' log-probabilities of one token, nats."""
    return max(abs(a - b) for s, o in zip(some, other, strict=True) for a, b in zip(s.logp, o.logp, strict=True))


@needs_vllm
def test_vllm_in_float32_is_hugging_face(model: ModelSpec) -> None:
    generations, scored = in_process(model, "float32")
    prompts = [tuple(range(3, 3 + n)) for n in (5, 9, 255, 256)]
    with EnginePool(model, spec("vllm")) as pool:
        vllm_generations, vllm_scored = ask(pool, model)
        again = pool.score([])
        # All of it is in the cache by now; and answers that begin alike meet in one block of it.
        alike = [Encoded((*range(3, 60), *range(70, 70 + n), n), 57) for n in range(40, 50)]
        rescored, scored_alike = ask(pool, model)[1], pool.score(alike)
        sampled, resampled = pool.generate(prompts, SAMPLED), pool.generate(prompts[1:2], SAMPLED)
        with pytest.raises(UserError, match=r"engine.max_model_len=256: a text of 257 tokens"):
            pool.score([Encoded(tuple(range(257)), 3)])
    assert vllm_generations == generations
    assert furthest(vllm_scored, scored) < 1e-4
    assert [s.greedy for s in vllm_scored] == [s.greedy for s in scored]
    assert again == []
    assert furthest(rescored, scored) < 1e-4
    assert furthest(scored_alike, HFEngine.open(model, spec("hf")).score(alike)) < 1e-4
    # The limits, and samples that belong to their prompt, as in the unit tests of the Hugging Face engine.
    assert [[len(g.token_ids) for g in group] for group in sampled] == [[8] * 3, [8] * 3, [1] * 3, [0] * 3]
    assert sampled[1] == resampled[0]
    assert len({g.token_ids for g in sampled[0]}) == 3


@needs_vllm
def test_vllm_in_bfloat16_is_close_to_hugging_face(model: ModelSpec) -> None:
    """Both round to 8 significant bits, at other places: vLLM may be twice as far from float32 as Hugging Face is.

    Stated tolerance on this model: 0.1 nats a token, 0.03 nats for a text's mean.
    """
    _, exact = in_process(model, "float32")
    _, scored = in_process(model, "bfloat16")
    with EnginePool(model, spec("vllm", "bfloat16")) as pool:
        _, vllm_scored = ask(pool, model)
    assert 0 < furthest(vllm_scored, exact) < 2 * furthest(scored, exact)
    assert furthest(vllm_scored, scored) < 0.1
    for one, other in zip(vllm_scored, scored, strict=True):
        assert fmean(one.logp) == pytest.approx(fmean(other.logp), abs=0.03)


def _collapsed(folder: Path) -> ModelSpec:
    """All weights NaN: an engine must answer all the same."""
    model = ModelSpec(source=str(tiny_model_folder(folder, hidden_size=128)))
    weights, _ = load_pretrained(model, dtype=torch.float32)
    for parameter in weights.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    weights.save_pretrained(folder)
    return model


def _wait_until_free(cpus: float) -> None:
    deadline_s = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0.0) < cpus and time.monotonic() < deadline_s:
        time.sleep(0.1)


@needs_vllm
def test_a_running_vllm_takes_the_weights_of_the_next_model(model: ModelSpec, tmp_path: Path) -> None:
    """What trials of a sweep do, within what their process holds: no resources of the cluster, no second start."""
    other = ModelSpec(source=str(tiny_model_folder(tmp_path / "other", seed=1, hidden_size=128)))
    collapsed = _collapsed(tmp_path / "collapsed")
    told: list[int] = []
    with OnDemand(model, spec("vllm"), "local", lambda done, *_: told.append(done), within=True) as engines:
        everything = ray.cluster_resources()["CPU"]
        _wait_until_free(everything)  # an engine of a test before may be about to go
        assert furthest(ask(engines, model)[1], in_process(model, "float32")[1]) < 1e-4
        assert ray.available_resources()["CPU"] == everything
        (first,) = replicas()
        engines.rest()
        engines.load(other, lambda *_: None)
        seen = len(told)
        generations, scored = ask(engines, other)
        assert len(told) == seen
        exact_generations, exact = in_process(other, "float32")
        assert generations == exact_generations
        assert furthest(scored, exact) < 1e-4
        engines.load(collapsed, lambda *_: None)
        generations, scored = ask(engines, collapsed)
        assert all(len(g.token_ids) == 16 for (g,) in generations)
        assert all(math.isnan(logp) for text in scored for logp in text.logp)
        assert replicas() == [first]


@pytest.mark.parametrize("type_", ["hf", pytest.param("vllm", marks=needs_vllm)])
def test_engines_of_a_list_of_models_are_started_once(type_: str, model: ModelSpec, tmp_path: Path) -> None:
    """They hold what they take of the cluster until they are closed; a model at rest takes no memory."""
    other = ModelSpec(source=str(tiny_model_folder(tmp_path / "other", seed=1, hidden_size=128)))
    with OnDemand(model, spec(type_), "local", lambda *_: None) as engines:
        assert furthest(ask(engines, model)[1], in_process(model, "float32")[1]) < 1e-4
        (first,) = replicas()
        engines.rest()
        engines.load(other, lambda *_: None)
        assert furthest(ask(engines, other)[1], in_process(other, "float32")[1]) < 1e-4
        assert replicas() == [first]
    assert psutil.wait_procs([first], timeout=30)[1] == []


@needs_vllm
@pytest.mark.cluster
def test_a_kept_vllm_starts_again_with_the_present_model_or_for_another_architecture(
    model: ModelSpec, tmp_path: Path
) -> None:
    other = ModelSpec(source=str(tiny_model_folder(tmp_path / "other", seed=1, hidden_size=128)))
    wider = ModelSpec(source=str(tiny_model_folder(tmp_path / "wider", hidden_size=256)))
    _, exact = in_process(other, "float32")
    with OnDemand(model, spec("vllm"), "local", lambda *_: None, within=True) as engines:
        ask(engines, model)
        engines.load(other, lambda *_: None)
        (first,) = replicas()
        first.kill()
        assert furthest(ask(engines, other)[1], exact) < 1e-4
        (second,) = replicas()
        engines.load(wider, lambda *_: None)
        assert psutil.wait_procs([second], timeout=30)[1] == []


@needs_vllm
def test_vllm_that_cannot_start_says_why(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path, hidden_size=128)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"vLLM could not start .*weights.*; try engine.type=hf$"):
        EnginePool(ModelSpec(source=str(folder)), spec("vllm")).__enter__()


@needs_vllm
def test_heads_that_vllm_has_no_kernel_for_are_told_at_its_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"its attention heads have 8 dimensions, .* take 32, .*; try engine.type=hf$"):
        EnginePool(ModelSpec(source=str(tiny_model_folder(tmp_path))), spec("vllm")).__enter__()


def replicas() -> list[psutil.Process]:
    """The title of a replica at work goes on with the name of what it is doing."""
    return descendants("ray::Replica")


def test_a_pool_loses_nothing_when_a_replica_is_killed(model: ModelSpec) -> None:
    random = Random(0)
    prompts = [tuple(random.choices(range(3, 300), k=random.randint(1, 40))) for _ in range(48)]
    expected = HFEngine.open(model, spec("hf")).generate(prompts, GREEDY)
    seen: list[tuple[int, int, int]] = []
    streamed: dict[int, list[Generation]] = {}

    def on_chunk(indices: Sequence[int], results: Sequence[list[Generation]]) -> None:
        if not streamed:
            os.kill(replicas()[0].pid, signal.SIGKILL)
        streamed.update(zip(indices, results, strict=True))

    progress = lambda done, total, tokens: seen.append((done, total, tokens))  # noqa: E731
    with EnginePool(model, spec("hf", replicas=2, chunk_size=4), on_progress=progress) as pool:
        assert len(replicas()) == 2
        results = pool.generate(prompts, GREEDY, on_chunk=on_chunk)
    assert results == expected
    assert [streamed[i] for i in range(48)] == expected
    assert [done for done, _, _ in seen] == list(range(4, 49, 4))
    assert seen[-1] == (48, 48, sum(len(g.token_ids) for (g,) in expected))
    assert psutil.wait_procs(replicas(), timeout=30)[1] == []


@pytest.mark.cluster
def test_a_text_that_kills_two_replicas_is_named(model: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fragile(pool_module.Replica):
        def score(self, model: ModelSpec, texts: Sequence[Encoded]) -> list[ScoredText]:
            if any(text.input_ids[0] == 7 for text in texts):
                os._exit(1)
            return [ScoredText((), ()) for _ in texts]

    monkeypatch.setattr(pool_module, "Replica", Fragile)
    first = load_tokenizer(model).decode([7, 8, 9])
    texts = [Encoded((i, 8, 9), 3) for i in range(3, 9)]
    one = spec("hf", chunk_size=1)
    with EnginePool(model, one) as pool, pytest.raises(UserError, match=r"engine.chunk_size=1:") as raised:
        pool.score(texts)
    assert repr(first) in str(raised.value)


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer could be loaded"):
        EnginePool(ModelSpec(source=str(tmp_path)), spec("hf")).__enter__()
    assert psutil.wait_procs(replicas(), timeout=30)[1] == []


@needs_vllm
@pytest.mark.cluster
@pytest.mark.parametrize("name", ["llama", "qwen3-moe", "llama-tied"])
def test_one_model_after_another_is_itself(name: str, tmp_path: Path) -> None:
    """A, B, A: whether a running vLLM takes the weights (dense, and tied to the embeddings) or not (experts)."""
    models = [ModelSpec(source=str(write_family(BY_NAME[name], tmp_path / str(seed), seed=seed))) for seed in (0, 1)]
    exact = [in_process(each, "float32") for each in models]
    short = spec("vllm").model_copy(update={"max_model_len": 128})
    with OnDemand(models[0], short, "local", lambda *_: None, within=True) as engines:
        for turn in (0, 1, 0):
            engines.load(models[turn], lambda *_: None)
            generations, scored = ask(engines, models[turn])
            assert generations == exact[turn][0]
            assert furthest(scored, exact[turn][1]) < 1e-4
