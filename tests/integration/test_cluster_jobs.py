"""Runs as jobs on a real cluster: two raylets, the jobs API over HTTP, token authentication on."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from obliviate.data.tables import KINDS
from obliviate.runs import provenance
from obliviate_cli.jobs.submit import runtime_env
from raylets import BIN, RayCluster
from tiny import tiny_model_folder

pytestmark = [pytest.mark.integration, pytest.mark.cluster]

OBLIVIATE = (sys.executable, "-m", "obliviate_cli")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with RayCluster(cpus=1) as cluster:
        cluster.start_node(cpus=1)
        yield cluster


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user's checkout holds: a config and its data. Model and runs lie where all nodes see them."""
    shared, folder = tmp_path_factory.mktemp("shared"), tmp_path_factory.mktemp("folder")
    tiny_model_folder(shared / "model")
    for name, count in (("forget", 8), ("retain", 10)):
        rows = [
            {"question": f"Where does {name} {i} live?", "answer": f"{name} {i} lives in London."} for i in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    values = {
        "model": {"source": str(shared / "model"), "compute_dtype": "float32", "max_length": 64},
        "data": {"type": "files", "forget": "forget.jsonl", "retain": "retain.jsonl"},
        "method": "npo+gd",
        "optim": {"epochs": 20, "batch_size": 4, "learning_rate": 1e-3},
        "cluster": {"cpus_per_worker": 0.5},
        "runs": str(shared / "runs"),
    }
    (folder / "run.yaml").write_text(json.dumps(values))
    return folder


def test_a_job_that_is_left_goes_on_and_is_found_again(cluster: RayCluster, folder: Path) -> None:
    """Ctrl-C while it is followed, attached again, its end seen; then the same command as Ray's own client has it."""
    followed = subprocess.Popen(
        [*OBLIVIATE, "submit", "run.yaml", "--address", cluster.dashboard, "--follow"],
        cwd=folder, env=cluster.client(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert followed.stdout is not None
    job = followed.stdout.readline().removeprefix("job: ").strip()
    assert job.startswith("unlearn-"), followed.stderr
    followed.stdout.readline()  # its output has begun
    followed.send_signal(signal.SIGINT)
    out, _ = followed.communicate(timeout=60)
    assert followed.returncode == 130
    assert f"job {job} goes on; to see it again: obliviate attach {job} --address {cluster.dashboard}" in out

    again = cluster.run(*OBLIVIATE, "attach", job, "--address", cluster.dashboard, folder=folder)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "unlearn with NPO+GD: 40/40" in again.stdout
    assert again.stdout.endswith(f"job {job}: succeeded\n")
    (run,) = (Path(json.loads((folder / "run.yaml").read_text())["runs"])).iterdir()
    assert f"model: {run}/model\n" in again.stdout
    assert json.loads((run / "run.json").read_text())["git_revision"] == provenance()["git_revision"]

    plain = cluster.run(
        str(BIN / "ray"), "job", "submit", "--address", cluster.dashboard, "--working-dir", ".", "--",
        "obliviate", "unlearn", "run.yaml", folder=folder,
    )  # fmt: skip
    assert plain.returncode == 0, plain.stdout + plain.stderr
    assert f"model: {run}/model\n" in plain.stdout


def test_a_mistake_on_the_cluster_has_its_line_and_its_exit_code(
    cluster: RayCluster, folder: Path, tmp_path: Path
) -> None:
    """It is made in the code that was submitted: another than the nodes have installed."""
    for package in map(Path, runtime_env(folder)["py_modules"]):
        shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "obliviate_cli" / "__main__.py").open("r+") as main:
        text = main.read()
        main.seek(0)
        main.write(f"print('of another revision', flush=True)\n{text}")
    done = cluster.run(
        *OBLIVIATE, "submit", "run.yaml", "data.forget=nowhere.jsonl", "--address", cluster.dashboard, "--follow",
        folder=folder, PYTHONPATH=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout.count("of another revision\n") == 2  # the command's own line, and the job's
    assert f"\nerror: data.forget: nowhere.jsonl: no such file; give a {KINDS}\n" in done.stdout


def test_what_no_node_has_is_refused_before_there_is_a_job(cluster: RayCluster, folder: Path) -> None:
    done = cluster.run(
        *OBLIVIATE, "submit", "run.yaml", "cluster.gpus_per_worker=1", "--address", cluster.dashboard, folder=folder
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: cluster.workers=1: asked for 1 x 1 GPUs, the cluster has 0: "
        "lower cluster.workers or what each is given\n"
    )


def test_another_token_is_refused(cluster: RayCluster, folder: Path) -> None:
    done = cluster.run(
        *OBLIVIATE, "submit", "run.yaml", "--address", cluster.dashboard, folder=folder, RAY_AUTH_TOKEN="0" * 32
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        f"error: --address {cluster.dashboard}: the token is refused; set RAY_AUTH_MODE=token"
    )
    # Another seed than the other tests': a run that is done needs no cluster.
    unlearn = (*OBLIVIATE, "unlearn", "run.yaml", "seed=7", f"cluster.address={cluster.gcs}")
    direct = cluster.run(*unlearn, folder=folder, RAY_AUTH_TOKEN="0" * 32)
    assert direct.returncode == 2
    assert f"error: cluster.address={cluster.gcs}: " in direct.stderr
    assert "the cluster asks for another token; set " in direct.stderr


def test_a_job_that_there_is_not(cluster: RayCluster, folder: Path) -> None:
    done = cluster.run(*OBLIVIATE, "attach", "unlearn-none", "--address", cluster.dashboard, folder=folder)
    assert done.returncode == 2
    assert "does not exist" in done.stderr
    assert done.stderr.count("\n") == 1
