"""A whole `obliviate evaluate` on Ray: a killed driver loses only the chunks under way, and vLLM gives way to Hugging
Face for what only that can measure."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from engines import needs_vllm
from obliviate.config_file import load
from obliviate.data.text import Encoded
from obliviate.inference.hf import HFEngine
from obliviate.inference.on_demand import OnDemand
from obliviate.inference.pool import EnginePool
from obliviate.models import load_tokenizer, text_encoder
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec
from obliviate_eval.records import RECORDS_FILE, Probe, read_records
from obliviate_recipes.evaluation import Evaluate, EvaluateRun
from obliviate_recipes.events import QUIET
from obliviate_recipes.stages.measure import ANSWERS
from tiny import tiny_model_folder

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]
ROWS = [
    {"question": f"Where does person {i} live?", "answer": f"Person {i} lives in London.",
     "paraphrased_answer": f"In London lives {i}.", "perturbed_answer": [f"Person {i} lives in Rome.", "No."]}
    for i in range(30)
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("tiny") / "model", hidden_size=128)


def config(folder: Path, model: Path, **engine: Any) -> Path:
    rows = folder / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, ROWS)))
    values = {
        "models": {"tiny": {"source": str(model), "max_length": 128}},
        "data": {"type": "files", "forget": str(rows)},
        "evaluation": {
            "suite": "tofu",
            "engine": {"type": "hf", "dtype": "float32", "cpus_per_replica": 0.5, "max_model_len": 128, **engine},
            "generation": {"max_new_tokens": 8},
        },
        "address": "local",
        "runs": str(folder / "runs"),
    }
    path = folder / "evaluate.yaml"
    path.write_text(json.dumps(values))
    return path


def chunks(runs: Path) -> list[Path]:
    return list(runs.glob(f"*/{ANSWERS}/*.json"))


def killed_after(path: Path, runs: Path, count: int) -> None:
    """Run the command, and kill it without a warning when `count` chunks are on disk."""
    code = "from obliviate_cli.main import main; main()"
    command = [sys.executable, "-c", code, "evaluate", str(path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        while len(chunks(runs)) < count:
            assert driver.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        children = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGKILL)
    for child in psutil.wait_procs(children, timeout=20)[1]:  # Ray's own processes follow their driver
        child.kill()


def test_a_killed_driver_redoes_only_what_is_missing(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, runs = config(tmp_path, model, chunk_size=2), tmp_path / "runs"
    killed_after(path, runs, 5)
    known: dict[str, Any] = {}
    for chunk in chunks(runs):
        known |= json.loads(chunk.read_text())
    asked: list[Encoded] = []
    score = EnginePool.score

    def counting(pool: EnginePool, texts: Sequence[Encoded], on_chunk: Any = None) -> Any:
        asked.extend(texts)
        return score(pool, texts, on_chunk)

    monkeypatch.setattr(EnginePool, "score", counting)
    (directory,) = Evaluate(load(EvaluateRun, path)).perform(QUIET)
    # Of 30 items: the answer, its paraphrase and two false ones, all of them different texts.
    assert len(known) >= 10
    assert len(asked) == 30 * 4 - sum("logp" in answer for answer in known.values())
    assert chunks(runs) == []
    alone = HFEngine.open(ModelSpec(source=str(model)), EngineSpec(type="hf", dtype="float32", max_model_len=128))
    encoder = text_encoder(ModelSpec(source=str(model), max_length=128), load_tokenizer(ModelSpec(source=str(model))))
    records = read_records(directory / RECORDS_FILE)
    said = alone.generate([encoder.prompt(record.question) for record in records], GenerationSpec(max_new_tokens=8))
    assert [record.generation_tokens for record in records] == [generation.token_ids for (generation,) in said]
    scored = alone.score([encoder.encode(record.question, record.reference) for record in records])
    for record, expected in zip(records, scored, strict=True):
        assert record.answers[Probe.ANSWER][0].logp == pytest.approx(expected.logp, abs=1e-4)


@needs_vllm
def test_what_vllm_cannot_measure_is_measured_on_hugging_face(model: Path) -> None:
    spec = ModelSpec(source=str(model))
    encoder = text_encoder(spec, load_tokenizer(spec))
    texts = [encoder.encode(row["question"], row["answer"]) for row in ROWS[:4]]
    prompts = [text.prompt_ids for text in texts]
    engine = EngineSpec(type="vllm", dtype="float32", cpus_per_replica=0.5, max_model_len=128)
    kinds: list[str | None] = []
    seen: list[tuple[int, int, int]] = []
    with OnDemand(spec, engine, "local", lambda *step: seen.append(step)) as engines:
        generated = engines.generate(prompts, GenerationSpec(max_new_tokens=4))
        kinds.append(engines.open_type)
        moments = engines.moments(texts)
        norms = engines.gradient_norms(texts)
        kinds.append(engines.open_type)
    assert kinds == ["vllm", "hf"]
    alone = HFEngine.open(spec, EngineSpec(dtype="float32"))
    assert generated == alone.generate(prompts, GenerationSpec(max_new_tokens=4))
    for found, expected in zip(moments, alone.moments(texts), strict=True):
        assert found.mean == pytest.approx(expected.mean, abs=1e-4)
    assert norms == pytest.approx(alone.gradient_norms(texts), rel=1e-3)
    assert seen[-1] == (4, 4, sum(len(text.answer_ids) for text in texts))
