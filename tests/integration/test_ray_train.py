"""Training on real Ray workers: the same result on any number of them, and after any of them, or the driver, dies."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import recipes
from damage import cut
from obliviate.config import UnlearnRun, build
from obliviate.errors import UserError
from obliviate.train.here import alone
from obliviate.train.job import Job, Reporter
from obliviate.train.log import read_steps
from obliviate.train.produce import train_and_write
from obliviate_recipes.events import QUIET
from obliviate_recipes.stage import perform
from obliviate_recipes.stages.composed import unlearning_stage
from once import Once
from open_ports import watched_ports
from processes import descendants
from tiny import tiny_sources

# A busy machine starts a Ray in a minute, and a test starts several.
pytestmark = [pytest.mark.integration, pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def sources(once: Once) -> Path:
    return once("ray_train", tiny_sources)


def command(config: Path) -> list[str]:
    return [str(Path(sys.executable).with_name("obliviate")), "unlearn", str(config)]


def settings(sources: Path, runs: Path, *, workers: int = 1) -> dict[str, object]:
    return {
        "model": {"source": str(sources / "model"), "compute_dtype": "float32", "max_length": 64},
        "data": {"type": "files", "forget": str(sources / "forget.jsonl"), "retain": str(sources / "retain.jsonl")},
        "method": "npo+kl",
        "optim": {
            "learning_rate": 1e-3, "epochs": 20,
            "batch_size": 4, "micro_batch_size": 1, "checkpoint_every_steps": 1,
        },
        "cluster": {"address": "local", "workers": workers, "cpus_per_worker": 0.5},
        "runs": str(runs),
    }  # fmt: skip


def unlearned(values: dict[str, object]) -> Path:
    return recipes.unlearned(build(UnlearnRun, values, where="test"))


def weights(folder: Path) -> dict[str, object]:
    return dict(load_file(folder / "model.safetensors"))


def same(first: Path, second: Path) -> bool:
    ours, theirs = weights(first), weights(second)
    return all(bool((ours[name] == theirs[name]).all()) for name in ours)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def undisturbed(once: Once, sources: Path, ray_local: None) -> Path:
    runs = once("undisturbed", lambda runs: unlearned(settings(sources, runs)))
    (model,) = runs.glob("unlearn-*/model")
    return model


@pytest.mark.usefixtures("ray_local")
def test_two_workers_take_the_same_steps_as_one(sources: Path, tmp_path: Path, undisturbed: Path) -> None:
    with watched_ports() as open_ports:
        two = unlearned(settings(sources, tmp_path, workers=2))
    assert open_ports == []  # torch's store would listen everywhere
    curves = [
        [part for line in read_steps(folder.parent) for part in line["parts"].values()] for folder in (undisturbed, two)
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-5, abs=1e-7)  # KL starts at zero
    ours, theirs = weights(undisturbed), weights(two)
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-5  # type: ignore[operator]


@pytest.mark.usefixtures("ray_local")
def test_a_killed_worker_changes_nothing(sources: Path, tmp_path: Path, undisturbed: Path) -> None:
    killed: list[int] = []
    killer = threading.Thread(target=_kill_a_worker, args=(tmp_path, killed))
    killer.start()
    folder = unlearned(settings(sources, tmp_path))
    killer.join()
    assert killed, "no worker was found to kill"
    assert same(folder, undisturbed)
    assert [line["step"] for line in read_steps(folder.parent)] == list(range(1, 41))


def _kill_a_worker(runs: Path, killed: list[int]) -> None:
    """SIGKILL the training worker of this test's own Ray once five steps are done."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        if any(len(read_steps(run)) >= 5 for run in runs.glob("unlearn-*")):
            for process in descendants("RayTrainWorker"):
                process.kill()
                killed.append(process.pid)
            return
        time.sleep(0.02)


@pytest.fixture
def abandoned(sources: Path, tmp_path: Path) -> Path:
    """The config of a run whose driver was killed, with its Ray, after some of its steps."""
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(settings(sources, tmp_path / "runs")))
    driver = subprocess.Popen(command(config), stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait_for_steps(tmp_path / "runs", 5, driver)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    return config


def test_a_killed_driver_goes_on_where_it_stopped(abandoned: Path, undisturbed: Path) -> None:
    (run,) = (abandoned.parent / "runs").glob("unlearn-*")
    assert 5 <= len(read_steps(run)) < 40
    done = subprocess.run(command(abandoned), capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr
    assert same(run / "model", undisturbed)
    written_ns = (run / "model" / "model.safetensors").stat().st_mtime_ns
    assert unlearned(json.loads(abandoned.read_text())) == run / "model"
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == written_ns  # nothing done twice


def _wait_for_steps(runs: Path, steps: int, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + 240
    while time.monotonic() < deadline_s and process.poll() is None:
        if any(len(read_steps(run)) >= steps for run in runs.glob("unlearn-*")):
            return
        time.sleep(0.02)
    raise AssertionError("the run did not get to its fifth step")


@pytest.mark.usefixtures("ray_local")
def dies_after_step_6(job: Job, folder: Path, on_step: Reporter) -> None:
    def report(metrics: Mapping[str, Any]) -> None:
        if metrics["step"] == 6:
            raise KeyboardInterrupt

    torch.set_num_threads(1)  # as the workers have
    with alone() as device:
        train_and_write(job, folder, report, device=device)


@pytest.mark.usefixtures("ray_local")
def test_a_damaged_checkpoint_is_passed_over_and_told_of(sources: Path, tmp_path: Path, undisturbed: Path) -> None:
    """It blocks no attempt of the workers, and what they went on from reaches the one who started them."""
    values = settings(sources, tmp_path)
    values["optim"] = {**values["optim"], "keep_checkpoints": 2}  # type: ignore[dict-item]
    config = build(UnlearnRun, values, where="test")
    with pytest.raises(KeyboardInterrupt):
        perform([unlearning_stage(config, config.data.load(), train=dies_after_step_6)], QUIET)
    (newest,) = tmp_path.glob("unlearn-*/checkpoints/step_000005")
    cut(newest / "__0_0.distcp")
    told = recipes.Told()
    assert same(recipes.unlearned(config, events=told), undisturbed)
    assert f"{newest}: the checkpoint was damaged (__0_0.distcp has " in told.text
    assert told.text.count("went on from step_000004") == 1


def test_more_cpus_than_the_cluster_has_are_refused_at_once(sources: Path, tmp_path: Path) -> None:
    values = settings(sources, tmp_path) | {"cluster": {"address": "local", "workers": 2, "cpus_per_worker": 1000}}
    with pytest.raises(UserError, match=r"cluster.workers=2: asked for 2 x 1000 CPUs, the cluster has"):
        unlearned(values)
