"""Sweeps on a real Ray: stopping, failing, crashing and resuming; trials in one process and on several workers."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from engines import needs_vllm
from obliviate.config import build
from obliviate.schema import EngineSpec
from obliviate_eval.summary import METRICS_FILE, Evaluation
from obliviate_recipes.events import QUIET
from obliviate_recipes.stages.measure import Measuring
from obliviate_recipes.sweeps.recipe import Sweep, open_sweep
from obliviate_recipes.sweeps.records import TRIALS, Trial, TrialRecord, read_records
from obliviate_recipes.sweeps.result import Result
from obliviate_recipes.sweeps.space import Point
from obliviate_recipes.sweeps.spec import SweepRun
from processes import descendants
from recipes import measured
from tiny import tiny_sources

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sources(tmp_path_factory.mktemp("sources"))


def values(sources: Path, runs: Path, rates: list[float], **more: Any) -> dict[str, Any]:
    return {
        "model": {"source": str(sources / "model"), "compute_dtype": "float32", "max_length": 64},
        "data": {"type": "files", "forget": str(sources / "forget.jsonl"), "retain": str(sources / "retain.jsonl")},
        "space": {"methods": {"ga+gd": {}}, "shared": {"optim.learning_rate": rates}},
        "optim": {"epochs": 4, "batch_size": 4, "micro_batch_size": 4},
        "evaluation": {
            "engine": {"type": "hf", "dtype": "float32"}, "generation": {"max_new_tokens": 4},
            "encoder": None, "nli": None, "resamples": 100,
        },
        "signal": {"points": 4, "rows": 8},
        "cluster": {"address": "local", "cpus_per_worker": 0.5},
        "runs": str(runs),
        **more,
    }  # fmt: skip


def run(given: dict[str, Any]) -> Result:
    return Sweep(build(SweepRun, given, where="test")).perform(QUIET)


def by_rate(records: tuple[TrialRecord, ...]) -> dict[float, TrialRecord]:
    return {record.values["optim.learning_rate"]: record for record in records}


def written_ns(record: TrialRecord) -> int:
    assert record.run is not None
    return (Path(record.run) / "model" / "model.safetensors").stat().st_mtime_ns


@pytest.mark.usefixtures("ray_local")
def test_the_good_end_the_slow_are_stopped_the_broken_are_recorded(sources: Path, tmp_path: Path) -> None:
    """One after the other, halving: the second learns nothing, so that its signal is below the first one's."""
    given = values(sources, tmp_path, [1e-2, 1e-7, 1e30], scheduler={"type": "asha", "reduction_factor": 2})
    result = run(given)
    records = by_rate(result.records)
    assert {rate: record.status for rate, record in records.items()} == {1e-2: "done", 1e-7: "stopped", 1e30: "failed"}
    assert records[1e-7].steps == 2  # of 8: the first of four points
    assert "Lower optim.learning_rate" in records[1e30].cause
    assert [each.point.values["optim.learning_rate"] for each in result.ranked] == [1e-2]
    report = (result.directory / "report.html").read_text()
    assert escape(records[1e30].cause.split(".")[0]) in report
    assert f"unlearn {result.directory}/unlearn.yaml method=ga+gd optim.learning_rate=0.01 seed=0" in report
    for record in result.records:
        assert list((result.directory / "tensorboard" / record.id).glob("events.*"))

    before = written_ns(records[1e-2])
    again = run(given)
    assert again.records == result.records
    assert written_ns(records[1e-2]) == before


@needs_vllm
@pytest.mark.cluster
@pytest.mark.usefixtures("ray_local")
def test_trials_share_one_vllm(tmp_path: Path) -> None:
    """The driver's engine measures the original; one other all trials, within what Tune reserved for a trial."""
    sources = tiny_sources(tmp_path / "sources", hidden_size=128)  # heads of 32, as vLLM's kernels need them
    engine = {"type": "vllm", "dtype": "float32", "max_model_len": 128}
    given = values(sources, tmp_path / "runs", [1e-3, 1e-2])
    given["evaluation"]["engine"] = engine
    seen: set[int] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            seen.update(process.pid for process in descendants("ray::Replica"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    records = run(given).records
    ended.set()
    watcher.join()
    assert [record.status for record in records] == ["done", "done"]
    assert len(seen) == 2

    config = build(SweepRun, given, where="test")
    alone = config.evaluation.model_copy(update={"engine": EngineSpec(type="hf", dtype="float32", max_model_len=128)})
    measuring = Measuring(config.data.load(), alone, None, str(tmp_path / "alone"), within=True)
    for record in records:
        model = config.model.model_copy(update={"source": f"{record.run}/model"})
        expected = Evaluation.read(measured(measuring, "alone", model) / METRICS_FILE).sets
        found = Evaluation.read(Path(str(record.evaluation)) / METRICS_FILE).sets
        for name in ("forget", "retain"):
            probability = expected[name]["probability"].value
            assert found[name]["probability"].value == pytest.approx(probability, abs=1e-5)


@pytest.mark.usefixtures("ray_local")
def test_a_trial_whose_process_dies_is_recorded_and_tried_again(sources: Path, tmp_path: Path) -> None:
    given = values(sources, tmp_path, [1e-3, 1e-2], max_failures=0, optim={"epochs": 60, "batch_size": 4})
    killed: list[int] = []
    killer = threading.Thread(target=_kill_a_trial, args=(tmp_path, killed))
    killer.start()
    result = run(given)
    killer.join()
    assert killed, "no trial was found to kill"
    statuses = sorted(record.status for record in result.records)
    assert statuses == ["crashed", "done"]
    (crashed,) = (record for record in result.records if record.status == "crashed")
    assert crashed.cause
    done = {record.id: written_ns(record) for record in result.records if record.status == "done"}
    again = run(given)
    assert [record.status for record in again.records] == ["done", "done"]
    assert {record.id: written_ns(record) for record in again.records if record.id in done} == done


def _kill_a_trial(runs: Path, killed: list[int]) -> None:
    """SIGKILL the trial's process of this test's own Ray once its training has logged a step."""
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        if any(path.stat().st_size for path in runs.glob("unlearn-*/steps.jsonl")):
            for process in [*descendants("ImplicitFunc"), *descendants("run_trial")]:
                process.kill()
                killed.append(process.pid)
            return
        time.sleep(0.02)


@pytest.mark.cluster
def test_a_killed_driver_goes_on_where_it_stopped(sources: Path, tmp_path: Path) -> None:
    """The driver and its Ray are killed once a trial is done; the same command finishes, that trial untouched."""
    given = values(sources, tmp_path / "runs", [1e-3, 3e-3, 1e-2], seeds=[0, 1])
    config = tmp_path / "sweep.yaml"
    config.write_text(json.dumps(given))
    command = [str(Path(sys.executable).with_name("obliviate")), "sweep", str(config)]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline_s = time.monotonic() + 120
        while not _done(tmp_path / "runs") and time.monotonic() < deadline_s and driver.poll() is None:
            time.sleep(0.02)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    finished = {record.id: written_ns(record) for record in _done(tmp_path / "runs")}
    assert 1 <= len(finished) < 6
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    records = _done(tmp_path / "runs")
    assert len(records) == 6
    assert {record.id: written_ns(record) for record in records if record.id in finished} == finished
    assert "sweep: 6/6" in done.stdout
    assert "chosen: obliviate unlearn " in done.stdout


def _done(runs: Path) -> list[TrialRecord]:
    folders = [path.parent for path in runs.glob(f"sweep-*/{TRIALS}")]
    return [record for folder in folders for record in read_records(folder) if record.status == "done"]


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_local")
def test_trials_of_two_workers(sources: Path, tmp_path: Path) -> None:
    """Ray Train inside Ray Tune: a trial that learns nothing is stopped beside one that is done, and the next one runs,
    with each figure as in a process of its own."""
    (alone,) = run(values(sources, tmp_path / "alone", [1e-2])).records
    workers = {"address": "local", "workers": 2, "cpus_per_worker": 0.5, "gpus_per_worker": 0}
    halving = {"type": "asha", "reduction_factor": 2}
    given = values(sources, tmp_path / "both", [2e-2, 1e-7, 1e-2], scheduler=halving, cluster=workers)
    config = build(SweepRun, given, where="test")
    done = TrialRecord.start(Trial(config.canonical(Point("ga+gd", {"optim.learning_rate": 2e-2})), 0))
    figures = {name: getattr(alone, name) for name in ("status", "signals", "forget", "utility", "steps")}
    replace(done, **figures).write(open_sweep(config, config.data.load()).directory)

    found = by_rate(Sweep(config).perform(QUIET).records)
    assert {rate: record.status for rate, record in found.items()} == {2e-2: "done", 1e-7: "stopped", 1e-2: "done"}
    assert [each["point"] for each in found[1e-2].signals] == [1, 2, 3, 4]
    for mine, theirs in zip(alone.signals, found[1e-2].signals, strict=True):
        assert mine["signal"] == pytest.approx(theirs["signal"], rel=1e-4)
    assert alone.forget == pytest.approx(found[1e-2].forget, abs=1e-3)
