"""Runs in an S3 bucket: data, model, checkpoints, records and reports, and what is left where an upload is cut off."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from obliviate import storage
from obliviate.config import UnlearnRun, build
from obliviate.errors import UserError
from obliviate.runs import write_json
from obliviate.train.export import export
from obliviate.train.job import CHECKPOINTS
from obliviate.train.log import read_steps
from obliviate.train.loop import single_process, train
from obliviate_recipes.evaluation import EvaluateRun
from obliviate_recipes.events import QUIET
from obliviate_recipes.pooled import report
from obliviate_recipes.stages.composed import unlearning_stage
from obliviate_recipes.stages.measure import Measuring
from recipes import measured
from tiny import tiny_model_folder
from training import job

pytestmark = [pytest.mark.integration, pytest.mark.cluster, pytest.mark.usefixtures("cache")]

WAIT_S = 120.0
PYTHON = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "RAY_AUTH_MODE": "disabled"}


@pytest.fixture
def sources(bucket: str, tmp_path: Path) -> str:
    """A model and rows that somebody else has put into the bucket."""
    files, _ = storage._open(bucket)
    for file in tiny_model_folder(tmp_path / "model").iterdir():
        storage._put(files, file, f"bucket/sources/model/{file.name}")
    for name, count in (("forget", 8), ("retain", 10)):
        rows = [
            {"question": f"Where does {name} {i} live?", "answer": f"{name} {i} lives in London."} for i in range(count)
        ]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        storage._put(files, tmp_path / "rows.jsonl", f"bucket/sources/{name}.jsonl")
    return f"{bucket}/sources"


def wait(for_it: Callable[[], bool], process: "subprocess.Popen[Any]") -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not for_it():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def kill(process: "subprocess.Popen[Any]") -> None:
    """With all below it: Ray's workers lead groups of their own, and would go on for a moment."""
    every = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    os.killpg(process.pid, signal.SIGKILL)
    for each in every:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    psutil.wait_procs(every, timeout=WAIT_S)


def test_a_run_goes_on_on_another_node(bucket: str, sources: str, cache: Path, tmp_path: Path) -> None:
    """The driver and its Ray are killed, its disk is lost; the same command elsewhere ends with the same model."""
    values: dict[str, Any] = {
        "model": {"source": f"{sources}/model", "compute_dtype": "float32", "max_length": 64},
        "data": {"type": "files", "forget": f"{sources}/forget.jsonl", "retain": f"{sources}/retain.jsonl"},
        "method": "npo+kl",
        "optim": {"learning_rate": 1e-3, "epochs": 20, "batch_size": 4, "checkpoint_every_steps": 2},
        "cluster": {"address": "local", "cpus_per_worker": 0.5},
        "runs": f"{bucket}/runs",
    }
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(values))
    command = [sys.executable, "-m", "obliviate_cli", "unlearn", str(config)]
    first = subprocess.Popen(command, env={**os.environ, **PYTHON}, stdout=subprocess.DEVNULL, start_new_session=True)
    runs = storage.local(f"{bucket}/runs")
    try:
        wait(lambda: any(storage.folders(run / CHECKPOINTS) for run in storage.children(runs)), first)
    finally:
        kill(first)
    (run,) = storage.children(runs)
    assert not storage.is_folder(run / "model")
    shutil.rmtree(cache)
    done = subprocess.run(
        command, env={**os.environ, **PYTHON}, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert f"model: {bucket}/runs/{run.name}/model\n" in done.stdout
    shutil.rmtree(cache)
    storage.fetch_loose(run)
    assert [line["step"] for line in read_steps(run)] == list(range(1, 41))
    assert storage.folders(run / CHECKPOINTS) == []
    alone = build(UnlearnRun, values, [f"runs={tmp_path}/alone"], where="test")
    stage = unlearning_stage(alone, alone.data.load())
    expected_job = stage.job(stage.run.begin(), QUIET)
    with single_process():
        export(train(expected_job), expected_job.model, tmp_path / "expected")
    found, expected = (
        load_file(folder / "model.safetensors") for folder in (storage.fetch(run / "model"), tmp_path / "expected")
    )
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-6


def test_a_training_whose_process_is_killed(bucket: str, sources: str, cache: Path, tmp_path: Path) -> None:
    """The loop alone, without Ray, at whatever point it is: often in an upload, for each step has a checkpoint."""
    code = f"""
from obliviate import storage
from obliviate.train.loop import single_process, train
from training import job
with single_process():
    train(job(storage.fetch(storage.local("{sources}/model")), storage.local("{bucket}/killed/run"), epochs=100,
              schedule="constant", checkpoint_every_steps=1))
"""
    training = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **PYTHON}, start_new_session=True)
    run = storage.local(f"{bucket}/killed/run")
    try:
        wait(lambda: any(path.name >= "step_000003" for path in storage.folders(run / CHECKPOINTS)), training)
    finally:
        kill(training)
    (newest,) = storage.folders(run / CHECKPOINTS)[-1:]
    done = int(newest.name.removeprefix("step_"))
    shutil.rmtree(cache)
    with single_process():
        tiny = storage.fetch(storage.local(f"{sources}/model"))
        train(job(tiny, run, epochs=(done + 2) / 2, schedule="constant"))  # two steps an epoch: two steps more
        train(job(tiny, tmp_path / "whole", epochs=(done + 2) / 2, schedule="constant"))
    resumed, whole = (read_steps(folder) for folder in (run, tmp_path / "whole"))
    assert [line["step"] for line in resumed] == list(range(1, done + 3))
    assert resumed[-1]["parts"] == pytest.approx(whole[-1]["parts"], rel=1e-4)


def test_an_evaluation_and_its_report(bucket: str, sources: str, cache: Path) -> None:
    values = {
        "models": {"tiny": {"source": f"{sources}/model", "max_length": 64}},
        "data": {"type": "files", "forget": f"{sources}/forget.jsonl", "retain": f"{sources}/retain.jsonl"},
        "evaluation": {
            "engine": {"type": "hf", "dtype": "float32"}, "generation": {"max_new_tokens": 4},
            "encoder": None, "nli": None, "resamples": 100,
        },
        "runs": f"{bucket}/evaluations",
    }  # fmt: skip
    config = build(EvaluateRun, values, where="test")
    measuring = Measuring(config.data.load(), config.evaluation, None, config.runs, within=True)
    folder = measured(measuring, "tiny", config.models["tiny"])
    shutil.rmtree(cache)
    written = {each.name for each in storage.children(folder)}
    assert written == {"done.json", "metrics.json", "records.parquet", "run.json"}
    report([Path(storage.name(folder))], Path(f"{bucket}/reports/first.html"), "In a bucket", [], QUIET)
    shutil.rmtree(cache)
    assert "In a bucket" in storage.fetch(storage.local(f"{bucket}/reports/first.html")).read_text()
    assert storage.fetch(storage.local(f"{bucket}/reports/first.json")).exists()


def test_a_model_whose_upload_is_killed_is_none(bucket: str, cache: Path, tmp_path: Path) -> None:
    """48 MB in three files, killed when the first is there; the others are not, or are whole."""
    code = f"""
from obliviate import storage
from obliviate.runs import whole_folder
with whole_folder(storage.local("{bucket}/killed/model")) as folder:
    for name in "abc":
        (folder / name).write_bytes(b"x" * 2**24)
"""
    command = [sys.executable, "-c", code]
    uploading = subprocess.Popen(command, env={**os.environ, **PYTHON}, start_new_session=True)
    model = storage.local(f"{bucket}/killed/model")
    try:
        wait(lambda: "a" in [each.name for each in storage.children(model)], uploading)
    finally:
        kill(uploading)
    shutil.rmtree(cache)
    assert not storage.is_folder(model)
    assert not storage.fetch(model).exists()
    files, key = storage._open(storage.name(model))
    assert {info.size for info in storage._list(files, key) if info.base_name in "abc"} == {2**24}
    subprocess.run(command, env={**os.environ, **PYTHON}, check=True, timeout=120)
    assert sum(each.stat().st_size for each in storage.fetch(model).iterdir() if each.name in "abc") == 3 * 2**24


def test_a_bucket_that_there_is_not(bucket: str) -> None:
    with pytest.raises(UserError) as caught:
        write_json(storage.local("s3://another/run.json"), {})
    assert str(caught.value).startswith("s3://another/run.json: the store cannot be read or written (")
    assert str(caught.value).count("\n") == 0
