"""What a real local cluster refuses: before a worker starts, in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from obliviate import cluster
from obliviate.config import UnlearnRun, build
from obliviate.errors import UserError
from recipes import unlearned
from tiny import tiny_model_folder

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    tiny_model_folder(folder / "model")
    rows = [{"question": f"Where does person {i} live?", "answer": f"Person {i} lives in London."} for i in range(4)]
    (folder / "forget.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def run(sources: Path, runs: Path, **resources: Any) -> UnlearnRun:
    values = {
        "model": {"source": str(sources / "model")},
        "data": {"type": "files", "forget": str(sources / "forget.jsonl")},
        "method": "ga",
        "cluster": {"address": "local", **resources},
        "runs": str(runs),
    }
    return build(UnlearnRun, values, where="test")


def test_more_workers_than_the_cluster_holds(sources: Path, tmp_path: Path) -> None:
    import ray

    cores = int(ray.cluster_resources()["CPU"])
    config = run(sources, tmp_path, workers=cores + 1, cpus_per_worker=1)
    with pytest.raises(UserError) as caught:
        unlearned(config)
    assert str(caught.value) == (
        f"cluster.workers={cores + 1}: asked for {cores + 1} x 1 CPUs, the cluster has {cores}: "
        "lower cluster.workers or what each is given"
    )
    (directory,) = tmp_path.iterdir()
    assert not (directory / "steps.jsonl").exists()


def test_gpus_on_a_cluster_without_any(sources: Path, tmp_path: Path) -> None:
    if cluster.cluster_gpus():
        pytest.skip("the cluster has GPUs")
    with pytest.raises(UserError, match=r"^cluster.workers=1: asked for 1 x 1 GPUs, the cluster has 0: lower"):
        unlearned(run(sources, tmp_path, gpus_per_worker=1))


def test_a_relative_path_is_that_of_the_command_and_not_of_a_worker(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sources)
    config = run(sources, tmp_path, max_failures=0)
    model = config.model.model_copy(update={"source": "model"})
    folder = unlearned(config.model_copy(update={"model": model}))
    assert (folder / "model.safetensors").is_file()
    assert "Not measured yet" in (folder / "README.md").read_text()
