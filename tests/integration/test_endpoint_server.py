"""Hosted models on real servers: behind `obliviate serve`, or behind vLLM's, a model says what it says at hand."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from engines import needs_vllm
from obliviate.data.text import Encoded
from obliviate.errors import UserError
from obliviate.inference.endpoint import EndpointEngine
from obliviate.inference.engine import Engine, Generation, ScoredText
from obliviate.inference.hf import HFEngine
from obliviate.inference.server import Server, Way
from obliviate.inference.vllm import vllm_environment
from obliviate.models import load_tokenizer, text_encoder
from obliviate.schema import EngineSpec, GenerationSpec, HostedSpec, ModelSpec
from obliviate_serve.spec import ServeRun
from serving import free_port
from tiny import tiny_model_folder

pytestmark = pytest.mark.integration

QUESTIONS = ["Who lives in London?", "Where was Basil born?", "What is it?", "Who was the first on the moon in 1969?"]
ANSWERS = ["Ada Lovelace lives in London.", "Kuwait City", "I do not know anything about that.", "Neil Armstrong"]
GREEDY = GenerationSpec(max_new_tokens=16)
SAMPLED = GenerationSpec(max_new_tokens=8, temperature=1.0, samples=20)
ENGINE = EngineSpec(type="hf", dtype="float32", max_model_len=200)
START_S = 300


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    # Heads of 32: the smallest that vLLM's kernels for CPUs take.
    return ModelSpec(source=str(tiny_model_folder(tmp_path_factory.mktemp("tiny"), hidden_size=128)))


def texts(model: ModelSpec) -> tuple[list[tuple[int, ...]], list[Encoded]]:
    encoder = text_encoder(model, load_tokenizer(model))
    return [encoder.prompt(q) for q in QUESTIONS], [encoder.encode(q, a) for q in QUESTIONS for a in ANSWERS]


def ask(engine: Engine, model: ModelSpec) -> tuple[list[Generation], list[ScoredText]]:
    prompts, answers = texts(model)
    return [said for (said,) in engine.generate(prompts, GREEDY)], engine.score(answers)


def behind(url: str, model: ModelSpec, name: str = "tiny") -> tuple[EndpointEngine, Server]:
    server = Server(HostedSpec(base_url=f"{url}/v1", model=name, timeout_s=120))
    return EndpointEngine.open(model, ENGINE, server), server


def same_scores(some: Sequence[ScoredText], other: Sequence[ScoredText]) -> None:
    """Within what engines differ by in float32."""
    assert max(abs(a - b) for s, o in zip(some, other, strict=True) for a, b in zip(s.logp, o.logp, strict=True)) < 1e-4
    assert [s.greedy for s in some] == [o.greedy for o in other]


@pytest.fixture(scope="module")
def ours(ray_local: None, model: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from ray import serve

    from obliviate_serve.backend import APP
    from obliviate_serve.deploy import application

    folder, port = tmp_path_factory.mktemp("serve"), free_port()
    spec = ServeRun.model_validate(
        {
            "models": {"tiny": {"source": model.source}},
            "aliases_file": str(folder / "aliases.json"),
            "engine": {"type": "hf", "dtype": "float32", "max_model_len": 256, "cpus_per_replica": 0.2},
            "http": {"port": port},
            "limits": {"start_s": 150, "drain_s": 1},
            "access_log": str(folder / "access.jsonl"),
        }
    )
    serve.run(application(spec, listens=True), name=APP, route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def test_a_model_that_we_serve_is_the_model_at_hand(ours: str, model: ModelSpec) -> None:
    said, scored = ask(HFEngine.open(model, ENGINE), model)
    engine, server = behind(ours, model)
    said_there, scored_there = ask(engine, model)
    assert server.way == Way(ids=True)  # it refuses keys that OpenAI has not
    # A character that the limit cut through is not sent.
    assert [each.text for each in said_there] == [each.text.rstrip("\ufffd") for each in said]
    assert [each.finished for each in said_there] == [each.finished for each in said]
    same_scores(scored_there, scored)
    prompts, _ = texts(model)
    [samples] = engine.generate(prompts[:1], SAMPLED)
    assert len({each.text for each in samples}) > 10
    assert engine.generate(prompts[:1], SAMPLED) == [samples]
    with pytest.raises(UserError, match=r"model.endpoint.model: nobody: .* does not know it"):
        behind(ours, model, "nobody")
    with pytest.raises(UserError, match=r"or mend base_url"):
        behind(f"{ours}/elsewhere", model)


@pytest.fixture
def vllms(model: ModelSpec, tmp_path: Path) -> Iterator[str]:
    port = free_port()
    environment = {**os.environ, **vllm_environment(gpu=False), "VLLM_CPU_KVCACHE_SPACE": "1"}
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model.source,
        "--served-model-name", "tiny", "--dtype", "float32", "--max-model-len", "256", "--enforce-eager",
        "--block-size", "32", "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    with (
        (tmp_path / "vllm.log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            wait_until_up(f"http://127.0.0.1:{port}/health", process, tmp_path / "vllm.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def wait_until_up(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(START_S):
        assert process.poll() is None, log.read_text()
        try:
            with urlopen(url):
                return
        except URLError:
            time.sleep(1)
    pytest.fail(f"vLLM did not start: {log.read_text()}")


@pytest.mark.cluster
@needs_vllm
def test_a_model_that_vllm_serves_is_the_model_at_hand(vllms: str, model: ModelSpec) -> None:
    """By either of the ways in which it gives log-probabilities; its answers come with their token ids."""
    said, scored = ask(HFEngine.open(model, ENGINE), model)
    for reading in (0, 1):
        engine, server = behind(vllms, model)
        server.reading = reading
        said_there, scored_there = ask(engine, model)
        assert server.way == Way(ids=True, plain=True)
        assert said_there == said
        same_scores(scored_there, scored)
    assert behind(vllms, model)[0].scores
