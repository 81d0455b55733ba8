"""What was measured, as tables: of evaluation runs, of attacks and of sweeps."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from obliviate import storage
from obliviate.config_file import RunSpec
from obliviate.runs import intact
from obliviate_eval.asked import suite_of
from obliviate_eval.records import RECORDS_FILE, read_records
from obliviate_eval.robustness import Robustness
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.statistics import Figure
from obliviate_eval.summary import METRICS_FILE, Evaluation
from obliviate_recipes.sweeps.result import Result

FIGURES = ("model", "kind", "set", "metric", "value", "low", "high", "scored", "unscored")
SHOWN = ("set", "role", "index", "question", "reference", "generation")  # of a record, before its scores


@dataclass(frozen=True)
class Evaluated:
    """Models that were measured on the same items. Everything is read from the runs' folders."""

    config: RunSpec
    evaluation: EvaluationSpec
    runs: Mapping[str, Path]  # name of the model -> folder of its metrics.json and records.parquet
    report: Path | None = None  # HTML, of `compare`

    @cached_property
    def figures(self) -> pd.DataFrame:
        """A row a figure, with its 95 % interval.

        `kind` is `metric` (of a set), `comparison`, `aggregate`, `task` (`set` is its name) or `forget_quality`.
        """
        return pd.DataFrame(
            [(name, *row) for name, run in self.runs.items() for row in _figures(_read(run))], columns=list(FIGURES)
        ).astype({"value": float, "low": float, "high": float})

    @cached_property
    def records(self) -> pd.DataFrame:
        """A row an item and model: what was asked and answered, and a column a metric with the item's score."""
        rows, suite = [], suite_of(self.evaluation)
        scores = [metric.type for metric in suite.metrics]
        for name, run in self.runs.items():
            for record in read_records(storage.fetch(run / RECORDS_FILE)):
                row: dict[str, Any] = {"model": name, **{key: getattr(record, key) for key in SHOWN}}
                row |= {metric.type: metric.of(record) for metric in suite.metrics_of(record.set, record.role)}
                rows.append(row)
        found = pd.DataFrame(rows)
        return found.astype({name: float for name in scores if name in found})


@dataclass(frozen=True)
class Attacked(Evaluated):
    """What attacks brought back; `figures` and `records` are of the models as they are, asked as usual."""

    file: Path = field(kw_only=True)  # robustness.json

    @cached_property
    def robustness(self) -> Robustness:
        """All that was found."""
        return Robustness.read(storage.fetch(self.file))

    @cached_property
    def scores(self) -> pd.DataFrame:
        """A row a model: robustness with its interval, the attack that it is by, and what is known with and without."""
        rows = []
        for name, model in self.robustness.models.items():
            values = (figure and figure.value for figure in (model.plain, model.known))
            score = (None,) * 3 if model.score is None else _cells(model.score)[:3]
            rows.append((name, *score, model.attack, model.measure, *values))
        columns = ["model", "robustness", "low", "high", "attack", "measure", "known_asked", "known_attacked"]
        return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(("robustness", "low", "high"), float))

    @cached_property
    def outcomes(self) -> pd.DataFrame:
        """A row a model, attack, setting and measure: excess recovery with its interval, and what it is made of."""
        rows = []
        for name, outcomes in self.robustness.outcomes.items():
            for one in outcomes:
                found = one.recovery
                means = (figure.value for figure in (found.before, found.after, found.recovered, found.taught))
                told = (name, one.attack, one.setting, one.measure, one.steps, one.utility_drop, one.within)
                rows.append((*told, *means, *_cells(found.excess)))
        columns = ["model", "attack", "setting", "measure", "steps", "utility_drop", "within", "before", "after",
                   "recovered", "taught", "excess", "low", "high", "scored", "unscored"]  # fmt: skip
        numbers = ("utility_drop", "before", "after", "recovered", "taught", "excess", "low", "high")
        return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(numbers, float))


def _read(run: Path) -> Evaluation:
    return Evaluation.read(intact(storage.fetch(run / METRICS_FILE)))


def _figures(found: Evaluation) -> Iterator[tuple[Any, ...]]:
    """From `kind` on."""
    of_sets = [("metric", name, row) for name, row in found.sets.items()]
    of_all = [("comparison", "", found.comparisons), ("aggregate", "", found.aggregates)]
    of_tasks = [("task", name, row) for name, row in found.tasks.items()]
    for kind, name, row in (*of_sets, *of_all, *of_tasks):
        for metric, figure in row.items():
            yield kind, name, metric, *_cells(figure)
    if (test := found.forget_quality) is not None:
        for metric in ("p_value", "log10_p", "statistic"):
            yield "forget_quality", "", metric, getattr(test, metric), None, None, test.scored, test.unscored


def _cells(figure: Figure) -> tuple[float | int | None, ...]:
    return figure.value, figure.low, figure.high, figure.scored, figure.unscored


@dataclass(frozen=True)
class Swept:
    """What a sweep found."""

    result: Result
    report: Path  # HTML

    @property
    def config(self) -> RunSpec:
        return self.result.config

    @cached_property
    def configurations(self) -> pd.DataFrame:
        """A row a configuration, the best first: its values, and its objectives, means over seeds with 95 % intervals.

        `trial` is the id by which `obliviate sweep keep` finds the model of its first seed.
        """
        return pd.DataFrame(
            [
                {
                    "trial": each.trials[0].id,
                    "method": each.point.method,
                    **each.point.values,
                    **_objective("forget", each.forget),
                    **_objective("utility", each.utility),
                    **({} if each.survives is None else _objective("survives", each.survives)),
                    "seeds": len(each.trials),
                    "on_front": each.on_front,
                    "chosen": each is self.result.chosen,
                    "command": self.result.command(each.trials[0]),
                }
                for each in self.result.ranked
            ]
        )

    @property
    def front(self) -> pd.DataFrame:
        """The configurations that no other beats in all objectives."""
        found = self.configurations
        return found[found["on_front"]].drop(columns="on_front") if len(found) else found

    @cached_property
    def trials(self) -> pd.DataFrame:
        """A row a trial, however it ended."""
        return pd.DataFrame(
            [
                {key: value for key, value in {**asdict(record), **record.values}.items() if key not in UNLISTED}
                for record in self.result.records
            ]
        )


UNLISTED = ("values", "signals")  # of a trial's record


def _objective(name: str, found: Any) -> dict[str, float | None]:
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
