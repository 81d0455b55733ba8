"""MLflow, by its client: several runs may be open at once."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from obliviate.errors import UserError
from obliviate.tracking import MlflowTracking
from obliviate_recipes.tracking.board import Begun, Ended, Log, first_line, library, parameters

ID = "obliviate.id"  # tag by which a run is found again
LONGEST = 500  # characters of a parameter


class _Log:
    def __init__(self, mlflow: Any, client: Any, run_id: str) -> None:
        self._mlflow, self._client, self._run_id = mlflow, client, run_id

    def step(self, step: int, values: Mapping[str, float]) -> None:
        now_ms = int(time.time() * 1000)
        metrics = [self._mlflow.entities.Metric(_name(name), value, now_ms, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def end(self, ended: Ended) -> None:
        for first in range(0, len(ended.figures), 1000):  # the most that a request may hold
            self.step(0, dict(list(ended.figures.items())[first : first + 1000]))
        for name, text in ended.texts.items():
            self._client.set_tag(self._run_id, _name(name), text)
        for file in ended.files:
            self._client.log_artifact(self._run_id, str(file))
        self._client.set_terminated(self._run_id, status="FAILED" if ended.failed else "FINISHED")

    def leave(self) -> None:
        self._client.set_terminated(self._run_id, status="KILLED")


class _Board:
    def __init__(self, mlflow: Any, client: Any, experiment: str) -> None:
        self._mlflow, self._client, self._experiment = mlflow, client, experiment

    def open(self, begun: Begun) -> Log:
        found = self._client.search_runs([self._experiment], f"tags.`{ID}` = '{begun.id}'", max_results=1)
        if found:
            run_id = found[0].info.run_id
            self._client.update_run(run_id, status="RUNNING")
            return _Log(self._mlflow, self._client, run_id)
        tags = {ID: begun.id, "kind": begun.kind, "group": begun.group}
        run_id = self._client.create_run(self._experiment, tags=tags, run_name=begun.name).info.run_id
        given = [self._mlflow.entities.Param(_name(name), str(value)[:LONGEST])
                 for name, value in parameters(begun.config).items()]  # fmt: skip
        for first in range(0, len(given), 100):
            self._client.log_batch(run_id, params=given[first : first + 100])
        return _Log(self._mlflow, self._client, run_id)


def _name(name: str) -> str:
    """Names of methods have signs that MLflow refuses in a key."""
    return re.sub(r"[^\w\-. /]", "_", name)


def open_board(spec: MlflowTracking, runs: Path) -> _Board:
    mlflow = library("mlflow")
    runs.mkdir(parents=True, exist_ok=True)
    uri = spec.uri or f"sqlite:///{runs / 'mlflow.db'}"
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(spec.project)
        # Else reports would go to the working directory.
        files = (runs / "mlflow").as_uri() if spec.uri is None else None
        experiment = client.create_experiment(spec.project, files) if found is None else found.experiment_id
    except mlflow.exceptions.MlflowException as error:
        raise UserError(
            f"tracking.uri: {uri}: cannot be used ({first_line(error)}); give a server's URL, or sqlite:///path"
        ) from error
    return _Board(mlflow, client, experiment)
