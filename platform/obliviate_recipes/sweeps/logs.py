"""Trials for other tools to look at: TensorBoard with HParams, and MLflow where it is installed."""

import importlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from obliviate import storage
from obliviate.errors import UserError
from obliviate_recipes.sweeps.records import TrialRecord
from obliviate_recipes.sweeps.spec import SweepRun

log = logging.getLogger(__name__)

TENSORBOARD = "tensorboard"  # folder in that of the sweep, one below it for each trial


class TrialLog(Protocol):
    def trial(self, record: TrialRecord) -> None:
        """Told of every trial that ended, however it did."""
        ...


def open_logs(directory: Path, config: SweepRun) -> Sequence[AbstractContextManager[TrialLog]]:
    """Raises UserError where MLflow is asked for and is not there."""
    logs: list[AbstractContextManager[TrialLog]] = [_tensorboard(directory / TENSORBOARD)]
    if config.mlflow is not None:
        logs.append(_mlflow(config.mlflow, config.title, directory.name))
    return logs


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def trial(self, record: TrialRecord) -> None:
        # One that crashed may end well when the same command tries it again: then it has two folders.
        folder = self._folder / (record.id if record.settled else f"{record.id}-{record.status}")
        if folder.exists():  # written by the run that is being resumed
            return
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(folder)) as board:
            for signal in record.signals:
                for name in ("signal", "forget_probability", "retain_probability"):
                    if signal[name] is not None:
                        board.add_scalar(name, signal[name], signal["step"])
            board.add_hparams(_parameters(record), _figures(record), run_name=".")
        storage.upload_tree(folder)


@contextmanager
def _tensorboard(folder: Path) -> Iterator[TrialLog]:
    yield _TensorBoard(folder)


class _MLflow:
    def __init__(self, mlflow: ModuleType, sweep: str) -> None:
        self._mlflow, self._sweep = mlflow, sweep

    def trial(self, record: TrialRecord) -> None:
        """Once, of a sweep that is resumed too; and again where it has ended otherwise."""
        status = "FINISHED" if record.status in ("done", "stopped") else "FAILED"
        tags = {"sweep": self._sweep, "trial": record.id, "ended": record.status}
        same = [f"tags.{name} = '{value}'" for name, value in tags.items()]
        try:
            # One that was cut off while it was written has another status.
            found = " and ".join([*same, f"attributes.status = '{status}'"])
            if not self._mlflow.search_runs(filter_string=found, output_format="list"):
                self._write(record, tags, status)
        except self._mlflow.exceptions.MlflowException as error:
            first = str(error).partition("\n")[0]
            log.warning("mlflow: trial %s is not logged (%s): the same command logs it later", record.id, first)

    def _write(self, record: TrialRecord, tags: dict[str, str], status: str) -> None:
        with self._mlflow.start_run(run_name=record.id, tags=tags):
            self._mlflow.log_params(_parameters(record))
            for signal in record.signals:
                found = {name: value for name, value in signal.items() if isinstance(value, float)}
                self._mlflow.log_metrics(found, step=signal["step"])
            self._mlflow.log_metrics(_figures(record))
            if record.cause:
                self._mlflow.set_tag("cause", record.cause)
            self._mlflow.end_run(status=status)


@contextmanager
def _mlflow(url: str, experiment: str, sweep: str) -> Iterator[TrialLog]:
    try:
        mlflow = importlib.import_module("mlflow")
    except ImportError as error:
        raise UserError(f"mlflow: {url}: MLflow is not installed; pip install mlflow-skinny, or mlflow=null") from error
    try:
        mlflow.set_tracking_uri(url)
        mlflow.set_experiment(experiment)
    except mlflow.exceptions.MlflowException as error:
        first = str(error).partition("\n")[0]
        raise UserError(f"mlflow: {url}: cannot be used ({first}); give a server's or a folder's URL") from error
    yield _MLflow(mlflow, sweep)


def _parameters(record: TrialRecord) -> dict[str, Any]:
    """What TensorBoard takes: numbers, booleans and texts."""
    shown = {name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in
             record.values.items()}  # fmt: skip
    return {"method": record.method, "seed": record.seed, **shown}


def _figures(record: TrialRecord) -> dict[str, float]:
    found = {"forget": record.forget, "utility": record.utility, "survives": record.survives}
    return {name: value for name, value in found.items() if value is not None} | {"steps": float(record.steps)}
