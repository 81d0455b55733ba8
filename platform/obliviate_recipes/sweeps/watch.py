"""What a user sees of a running sweep, and what is written of each trial as it ends: Ray Tune calls back into this."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from ray.tune import Callback
from rich.text import Text

from obliviate.console_table import ConsoleTable
from obliviate_eval.report.sweep import SURVIVES
from obliviate_recipes.events import Draw, Events
from obliviate_recipes.sweeps.logs import TrialLog, open_logs
from obliviate_recipes.sweeps.ranking import Ranked, rank
from obliviate_recipes.sweeps.records import Trial, TrialRecord, read_records
from obliviate_recipes.sweeps.space import Point
from obliviate_recipes.sweeps.spec import SweepRun

ROWS = 12  # of the table: the front and what follows it
BUSY = ("signal", "forget_probability", "retain_probability")


class Watch(Callback):  # type: ignore[misc]
    """A table with the present front on a terminal; a line for each trial that ends anywhere else."""

    def __init__(self, directory: Path, config: SweepRun, total: int, events: Events) -> None:
        self._directory, self._config, self._total, self._events = directory, config, total, events
        self._logs: list[TrialLog] = []
        self._records: dict[str, TrialRecord] = {}  # of ended trials, those of an earlier run among them
        self._told: dict[str, list[Mapping[str, Any]]] = {}  # of trials that run: what they told
        self._ended = 0
        self._draw: Draw | None = None
        self._stack = ExitStack()

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks, for its own way to resume, which a sweep does not use."""
        return {}

    def __enter__(self) -> "Watch":
        self._logs = list(open_logs(self._directory, self._config))
        self._records = {record.id: record for record in read_records(self._directory)}
        self._draw = self._stack.enter_context(self._events.watched())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._told[_ours(trial, self._config).id] = []
        self._show()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "signal" in result and "forget" not in result:
            names = ("point", "step", "steps", *BUSY)
            self._told[_ours(trial, self._config).id].append({name: result[name] for name in names})
            self._show()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        ours = _ours(trial, self._config)
        record = TrialRecord.find(self._directory, ours)
        assert record is not None
        if record.status == "running":  # it was not done, so the scheduler stopped it
            told = tuple(self._told[ours.id])
            record = replace(record, status="stopped", signals=told, steps=told[-1]["step"])
            record.write(self._directory)
        self._end(record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        ours = _ours(trial, self._config)
        record = TrialRecord.find(self._directory, ours) or TrialRecord.start(ours)
        record = replace(record, status="crashed", cause=_cause(trial))
        record.write(self._directory)
        self._end(record)

    def _end(self, record: TrialRecord) -> None:
        self._told.pop(record.id, None)
        self._records[record.id] = record
        self._ended += 1
        for log in self._logs:
            log.trial(record)
        if self._draw is None:
            self._events.said(f"sweep: {self._ended}/{self._total} {_line(record)}")
            on_front = [each.trials[0].id for each in self._ranked() if each.on_front]
            self._events.said(f"  front: {', '.join(on_front) or 'empty'}")
        self._show()

    def _ranked(self) -> list[Ranked]:
        return rank(list(self._records.values()), len(self._config.seeds))

    def _show(self) -> None:
        if self._draw is not None:
            self._draw(self._table())

    def _table(self) -> ConsoleTable:
        table = ConsoleTable(title=f"{self._config.title}: {self._ended} of {self._total} trials ended")
        for name in ("Trial", "Method", "Parameters"):
            table.add_column(name, overflow="fold")
        third = [] if self._config.robustness is None else [SURVIVES]
        for name in (self._config.objectives.forget, self._config.objectives.utility, *third, ""):
            table.add_column(name.replace("_", " "), justify="right")
        for each in self._ranked()[:ROWS]:
            style = "bold green" if each.on_front else ""
            figures = (*(f"{figure:.3f}" for figure in each.figures), "front" if each.on_front else "")
            table.add_row(each.point.id, each.point.method, Text(_values(each.point.values)), *figures, style=style)
        for trial, told in self._told.items():
            at = f"{told[-1]['step']}/{told[-1]['steps']} signal {told[-1]['signal']:.3f}" if told else "starting"
            table.add_row(trial, "", "", "", "", *[""] * len(third), at, style="dim")
        return table


def _ours(trial: Any, config: SweepRun) -> Trial:
    """The trial that Tune's stands for."""
    return Trial(config.canonical(Point(trial.config["method"], trial.config["values"])), trial.config["seed"])


def _line(record: TrialRecord) -> str:
    name = f"{record.id} {record.method} {_values(record.values)} seed {record.seed}:"
    match record.status:
        case "done":
            survives = "" if record.survives is None else f", survives {record.survives:.3f}"
            return f"{name} forget {record.forget:.3f}, utility {record.utility:.3f}{survives}"
        case "stopped":
            return f"{name} stopped after {record.steps} steps, signal {record.signals[-1]['signal']:.3f}"
        case _:
            return f"{name} {record.status}: {record.cause}"


def _values(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in
                    values.items())  # fmt: skip


def _cause(trial: Any) -> str:
    """In one line, without the traceback."""
    lines = [line for line in str(trial.get_error() or "").splitlines() if line.strip()]
    return lines[-1].strip()[:500] if lines else "the trial's process died"
