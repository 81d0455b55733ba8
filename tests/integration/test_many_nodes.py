"""A training, an evaluation and a sweep across nodes, of each of which one dies on the way: the result stays the same.

Three nodes of one CPU each, so that no two workers fit on one; the drivers run beside the head, which stays.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from obliviate import storage
from obliviate.config import UnlearnRun, build
from obliviate.train.export import export
from obliviate.train.job import CHECKPOINTS
from obliviate.train.log import read_steps
from obliviate.train.loop import single_process, train
from obliviate_eval.summary import METRICS_FILE, Evaluation
from obliviate_recipes.evaluation import EvaluateRun
from obliviate_recipes.events import QUIET
from obliviate_recipes.stages.composed import unlearning_stage
from obliviate_recipes.stages.measure import Measuring
from obliviate_recipes.sweeps.records import TRIALS, read_records
from obliviate_recipes.sweeps.spec import SweepRun
from raylets import RayCluster
from recipes import measured
from tiny import tiny_sources

pytestmark = [pytest.mark.integration, pytest.mark.cluster]

WAIT_S = 150.0


CODE = os.pathsep.join(filter(None, sys.path))  # drivers connect to the cluster, so that its nodes need the same code


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Each node has a cache of its own, as if it were on a disk of its own."""
    head, *others = (str(tmp_path_factory.mktemp("cache")) for _ in range(3))
    with RayCluster(cpus=1, PYTHONPATH=CODE, XDG_CACHE_HOME=head) as cluster:
        for cache in others:
            cluster.start_node(cpus=1, XDG_CACHE_HOME=cache)
        yield cluster


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sources(tmp_path_factory.mktemp("sources"))


def common(sources: Path, runs: Path | str) -> dict[str, Any]:
    return {
        "data": {"type": "files", "forget": str(sources / "forget.jsonl"), "retain": str(sources / "retain.jsonl")},
        "runs": str(runs),
    }


def model(sources: Path | str) -> dict[str, Any]:
    return {"source": f"{sources}/model", "compute_dtype": "float32", "max_length": 64}


MEASURED: dict[str, Any] = {
    "engine": {"type": "hf", "dtype": "float32"}, "generation": {"max_new_tokens": 24},
    "encoder": None, "nli": None, "resamples": 100,
}  # fmt: skip


def alone(config: UnlearnRun, folder: Path) -> Path:
    """The model of the same config, trained in this process."""
    stage = unlearning_stage(config, config.data.load())
    job = stage.job(stage.run.begin(), QUIET)
    with single_process():
        export(train(job), job.model, folder)
    return folder


def furthest(first: Path, second: Path) -> float:
    """The largest difference between two models' weights."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (first, second))
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def run_and_lose_a_node(
    cluster: RayCluster, verb: str, values: dict[str, Any], folder: Path, begun: Callable[[], bool], process: str
) -> None:
    """Once the command has `begun`, a node with such a process is killed, and another takes its place."""
    config = folder / f"{verb}.yaml"
    config.write_text(json.dumps(values))
    command = [sys.executable, "-m", "obliviate_cli", verb, str(config)]
    environment = cluster.client(RAY_ADDRESS=cluster.gcs)
    driver = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline_s = time.monotonic() + WAIT_S
        while not (lost := begun() and cluster.kill_one_with(process)) and driver.poll() is None:
            if time.monotonic() > deadline_s:
                driver.kill()
            time.sleep(0.05)
        out, _ = driver.communicate(timeout=WAIT_S)
        assert lost, f"no node but the head ran {process}: {out}"
    finally:
        driver.kill()
    cluster.start_node(cpus=1, XDG_CACHE_HOME=str(folder / "cache"))
    assert driver.returncode == 0, out


def test_a_training_of_two_workers_loses_a_node(
    cluster: RayCluster, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model, checkpoints and run lie in a store, which is all that the nodes share."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache of this test"))
    (tmp_path / "store").mkdir()
    values = {
        "model": model(f"file://{sources}"),
        "method": "npo+kl",
        "optim": {
            "learning_rate": 1e-3, "epochs": 8,
            "batch_size": 4, "micro_batch_size": 1, "checkpoint_every_steps": 1,
        },
        "cluster": {"workers": 2, "cpus_per_worker": 1},
        **common(sources, f"file://{tmp_path}/store/runs"),
    }  # fmt: skip
    runs = storage.local(str(values["runs"]))

    def begun() -> bool:
        whole = [path.name for run in storage.children(runs) for path in storage.folders(run / CHECKPOINTS)]
        return any(name >= "step_000003" for name in whole)

    run_and_lose_a_node(cluster, "unlearn", values, tmp_path, begun, "RayTrainWorker")
    (run,) = map(storage.fetch_loose, storage.children(runs))
    assert [line["step"] for line in read_steps(run)] == list(range(1, 17))
    expected = alone(build(UnlearnRun, values, ["runs=" + str(tmp_path / "alone")], where="test"), tmp_path / "model")
    assert furthest(storage.fetch(run / "model"), expected) < 1e-5


def test_an_evaluation_on_two_engines_loses_a_node(cluster: RayCluster, sources: Path, tmp_path: Path) -> None:
    engine = {**MEASURED["engine"], "replicas": 2, "cpus_per_replica": 1, "chunk_size": 1}
    values = {
        "models": {"tiny": model(sources)},
        "evaluation": MEASURED | {"engine": engine, "generation": {"max_new_tokens": 200}},
        **common(sources, tmp_path / "runs"),
    }

    def begun() -> bool:
        return any((tmp_path / "runs").glob("records-*/answers/*.json"))

    run_and_lose_a_node(cluster, "evaluate", values, tmp_path, begun, "Replica")
    run, _ = sorted((tmp_path / "runs").iterdir())  # the figures, and the records that they are of
    config = build(EvaluateRun, values, where="test")
    measuring = Measuring(config.data.load(), config.evaluation, None, str(tmp_path / "alone"), within=True)
    expected = Evaluation.read(measured(measuring, "tiny", config.models["tiny"]) / METRICS_FILE)
    found = Evaluation.read(run / METRICS_FILE)
    for name, figures in expected.sets.items():
        for metric, figure in figures.items():
            assert found.sets[name][metric].value == pytest.approx(figure.value, abs=1e-5), (name, metric)


def test_a_sweep_loses_a_node(cluster: RayCluster, sources: Path, tmp_path: Path) -> None:
    values = {
        "model": model(sources),
        "space": {"methods": {"ga+gd": {}}, "shared": {"optim.learning_rate": [1e-3, 3e-3]}},
        "optim": {"epochs": 40, "batch_size": 4, "micro_batch_size": 4},
        "evaluation": MEASURED,
        "signal": {"points": 4, "rows": 8},
        "cluster": {"cpus_per_worker": 1},
        "concurrency": 2,
        **common(sources, tmp_path / "runs"),
    }

    def begun() -> bool:
        return len([run for run in (tmp_path / "runs").glob("unlearn-*") if read_steps(run)]) == 2

    run_and_lose_a_node(cluster, "sweep", values, tmp_path, begun, "run_trial|ImplicitFunc")
    (folder,) = (path.parent for path in (tmp_path / "runs").glob(f"sweep-*/{TRIALS}"))
    records = read_records(folder)
    assert [record.status for record in records] == ["done", "done"]
    sweep = build(SweepRun, values | {"runs": str(tmp_path / "alone")}, where="test")
    for record in records:
        assert record.run is not None
        config = sweep.unlearning(record.trial.point, record.seed, str(sources / "model"))
        expected = alone(config, tmp_path / record.id)
        assert furthest(Path(record.run) / "model", expected) < 1e-6
