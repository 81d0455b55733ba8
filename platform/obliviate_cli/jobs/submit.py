"""`obliviate submit`: a config as a job on a Ray cluster, refused here and now where it cannot run there.

The job has the folder that the command is given in, and this very code: what runs is what was submitted, whether the
cluster's image holds another version of the package or none. The libraries that it stands on are the image's.
"""

import json
import logging
import os
import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import Any

from rich.console import Console

from obliviate import plugins
from obliviate.config import RunSpec, load
from obliviate.config_file import files
from obliviate.errors import UserError
from obliviate.nodes import Nodes, places
from obliviate.runs import REVISION_VARIABLE, provenance
from obliviate_cli.jobs import capacity
from obliviate_cli.jobs.client import connect, explained
from obliviate_cli.jobs.follow import attach, ended, how_to_attach
from obliviate_cli.jobs.needs import check_fits, needs
from obliviate_recipes.catalogue import RECIPES, recipe_of

PACKAGES = ("obliviate", "obliviate_recipes", "obliviate_cli", "obliviate_eval", "obliviate_serve")
NOT_SENT = ["__pycache__", "*.pyc", ".mypy_cache", ".ruff_cache", ".pytest_cache"]


def submit(
    config: Path,
    overrides: list[str],
    address: str,
    console: Console,
    *,
    verb: str | None,
    driver_cpus: float | None,
    follow: bool,
) -> int:
    """The exit code of the command: of the job itself where it is followed. Raises UserError."""
    folder = Path.cwd()
    verb = verb or recipe_of(config)
    if verb not in RECIPES:
        raise UserError(f"--verb {verb}: is none that runs as a job; give one of {', '.join(RECIPES)}")
    run = load(RECIPES[verb].load().takes, config, overrides)
    check_paths(run, config, folder)
    client = connect(address)
    with explained(address):
        check_cluster(run, driver_cpus, client)
        there = os.path.relpath(config.parent.resolve() / config.name, folder.resolve())
        command = ["python", "-m", "obliviate_cli", verb, there, *overrides]
        job = f"{verb}-{token_hex(8)}"
        console.print(f"job: {job}")  # before the cluster has it: whoever interrupts now can find it, and stop it
        client.submit_job(
            submission_id=job,
            entrypoint=shlex.join(command),
            runtime_env=runtime_env(folder),
            entrypoint_num_cpus=driver_cpus,
            metadata={"obliviate": verb},
        )
    if follow:
        return attach(client, job, address, console)
    console.print(f"to follow it: {how_to_attach(job, address)}")
    return 0


def check_paths(run: RunSpec, config: Path, folder: Path) -> None:
    """Raises UserError for what the job would not find, or would write where nobody finds it."""
    for file in files(config):
        if not file.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{file}: is not in the working directory {folder}, which is what the job gets; "
                "submit from a folder that holds it"
            )
        if _is_ignored(file.resolve(), folder.resolve()):
            raise UserError(
                f"{file}: does not go along with the job, for a .gitignore or .rayignore names it; take it out of there"
            )
    runs: str = getattr(run, "runs", "/")
    if not Path(runs).is_absolute() and "://" not in runs:
        raise UserError(
            f"runs: {runs} is a relative path: it would lie in the job's own folder, which goes with the cluster; give "
            "one that all nodes share (runs=/mnt/shared/runs) or an object store (runs=s3://bucket/runs)"
        )
    cluster = getattr(run, "cluster", None)
    key, given = ("address", getattr(run, "address", None)) if cluster is None else ("cluster.address", cluster.address)
    if given is not None:
        raise UserError(f"{key}: {given}: a job runs on the cluster that it is submitted to; leave it out: {key}=null")


def _is_ignored(file: Path, folder: Path) -> bool:
    """As Ray decides it when it packs the folder: by the ignore files of each folder on the way."""
    from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    by_git = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE) != "1"
    excludes: list[Any] = []
    for path in (*reversed(file.relative_to(folder).parents), file.relative_to(folder)):
        excludes += get_excludes_from_ignore_files(folder / path, by_git, logging.getLogger(__name__))
        if any(matches(folder / path) for matches in excludes):
            return True
    return False


def runtime_env(folder: Path) -> dict[str, Any]:
    """The folder to work in, this code, that of classes of others' which the config names, and the revision that the
    runs' records are to name."""
    places = [spec.submodule_search_locations for name in PACKAGES if (spec := find_spec(name)) is not None]
    revision = provenance()["git_revision"]
    others = plugins.packed()
    return {
        "working_dir": str(folder),
        "py_modules": [*(str(each[0]) for each in places if each), *others.get("py_modules", ())],
        "excludes": NOT_SENT,
        "env_vars": {**({} if revision is None else {REVISION_VARIABLE: revision}), **others.get("env_vars", {})},
    }


def check_cluster(run: RunSpec, driver_cpus: float | None, client: Any) -> None:
    """Raises UserError where the cluster has no room for what the config asks for, nor may grow to have it."""
    if not needs(run) and driver_cpus is None:
        return
    try:
        check_room(run, driver_cpus, live_nodes(client))
    except UserError:
        check_room(run, driver_cpus, grown_nodes(client))


def check_room(run: RunSpec, driver_cpus: float | None, nodes: Sequence[Nodes]) -> None:
    """Raises UserError where the nodes have none for the config's workers, or for the command itself."""
    check_fits(run, nodes)
    if driver_cpus is not None and places(nodes, driver_cpus, 0.0) < 1:
        raise UserError(
            f"--driver-cpus {driver_cpus:g}: no node of the cluster has so many CPUs; lower it, or leave it out: the "
            "command then runs on the head node"
        )


def live_nodes(client: Any) -> list[Nodes]:
    from ray.util.state import list_nodes

    live = list_nodes(address=client.get_address(), filters=[("state", "=", "ALIVE")], detail=True, limit=10_000)
    return [Nodes(1, node.resources_total.get("CPU", 0.0), node.resources_total.get("GPU", 0.0)) for node in live]


def grown_nodes(client: Any) -> list[Nodes]:
    """With those that an autoscaler may add. A job asks for them, for the dashboard does not tell."""
    environment = runtime_env(Path.cwd())
    del environment["working_dir"]
    job = client.submit_job(entrypoint=f"python -m {capacity.__name__}", runtime_env=environment)
    try:
        details = ended(client, job)
        output = client.get_job_logs(job)
    finally:  # also where it failed, or whoever waits has had enough: no job is left of what is only asked
        client.stop_job(job)
        ended(client, job)
        client.delete_job(job)
    if details.status != "SUCCEEDED":
        last = output.strip().rpartition("\n")[2]
        raise UserError(f"the cluster could not run a job that asks for its resources: {details.message} {last}")
    return [Nodes(**each) for each in json.loads(output.strip().rpartition("\n")[2])]
