"""From records to figures: works on a CPU, from the file, without the model."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from zlib import crc32

from pydantic import Field, ValidationError

from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate.plugins import is_ours
from obliviate.runs import write_json
from obliviate.schema import Spec
from obliviate_eval.forget_quality import ForgetQuality, forget_quality
from obliviate_eval.metrics.comparison import Sample, Samples
from obliviate_eval.records import FORM, Record
from obliviate_eval.statistics import Estimate, Figure, drawn_from, means, resample
from obliviate_eval.suites.base import Suite

METRICS_FILE = "metrics.json"
Tasks = Mapping[str, Mapping[str, Figure]]  # of the lm-evaluation-harness: task -> metric -> figure
NO_TASKS: Tasks = MappingProxyType({})
ACCURACY = "acc"  # what the harness calls it
# Tells of a retain set whether the model still speaks: the first that the suite has. One that does is ten times above.
LIKELY = ("probability", "cloze_probability", "accuracy")  # of answers that are there, be their likelihood no number
SPEAKS = (*LIKELY, "knowledge_memorization", "rouge", "rouge_1", "rouge_f1")
COLLAPSED_BELOW = 0.01


class Evaluation(Spec):
    """What `metrics.json` holds."""

    suite: str
    roles: dict[str, Role]  # of each set
    sets: dict[str, dict[str, Figure]]  # set -> metric -> figure
    comparisons: dict[str, Figure] = Field(default_factory=dict)  # of forget and holdout sets, or of two models
    aggregates: dict[str, Figure]
    forget_quality: ForgetQuality | None = None  # needs the records of a model that never saw the forget set
    tasks: dict[str, dict[str, Figure]] = Field(default={})
    titles: dict[str, str] = Field(default={})  # of metrics and comparisons that are not ours: what reports say of each

    @property
    def collapsed(self) -> bool:
        """Whether nothing is left of what was to be kept: what such a model no longer says, it has not forgotten.

        Of several retain sets all: one may be asked together with what was forgotten, and rightly be silent on it.
        """
        kept = (
            _is_silent(self.sets[name]) for name, role in self.roles.items() if role is Role.RETAIN and FORM not in name
        )
        told = [silent for silent in kept if silent is not None]
        return bool(told) and all(told)

    def write(self, path: Path) -> None:
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> "Evaluation":
        """Raises UserError where there is no such file or it holds something else."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); evaluate the model first") from error
        except ValidationError as error:
            raise UserError(f"{path}: no {METRICS_FILE} of an evaluation; evaluate the model again") from error


def _is_silent(figures: Mapping[str, Figure]) -> bool | None:
    """None where no figure tells."""
    metric = next((each for each in SPEAKS if each in figures), None)
    if metric is None:
        return None
    value = figures[metric].value
    # Every answer has a likelihood; a generation only has what was asked a question.
    return metric in LIKELY and figures[metric].unscored > 0 if value is None else value < COLLAPSED_BELOW


def summarise(
    records: Sequence[Record],
    suite: Suite,
    *,
    resamples: int = 1000,
    seed: int = 0,
    reference_records: Sequence[Record] | None = None,
    tasks: Tasks = NO_TASKS,
) -> Evaluation:
    """Every figure of the suite. The order of the records doesn't matter. `tasks`: of the harness, measured apart.

    Each set is resampled with its own seed, the same for every model: two models' intervals rest on the same draws.
    """
    estimates = estimate(
        records, suite, resamples=resamples, seed=seed, reference_records=reference_records, tasks=tasks
    )
    return Evaluation(
        suite=suite.name,
        roles=dict(estimates.sets.keys()),
        sets={name: _figures(row) for (name, _), row in estimates.sets.items()},
        comparisons=_figures(estimates.comparisons),
        aggregates=_figures(estimates.aggregates),
        forget_quality=None if reference_records is None else forget_quality(records, reference_records),
        tasks={task: dict(row) for task, row in tasks.items()},
        titles={
            each.type: f"{each.title}; {each.direction}"
            for each in (*suite.metrics, *suite.comparisons)
            if not is_ours(type(each))
        },
    )


class Estimates(NamedTuple):
    """Every number of a suite with its resampled values."""

    sets: dict[tuple[str, Role], dict[str, Estimate]]  # (set, its role) -> metric -> mean
    comparisons: dict[str, Estimate]
    aggregates: dict[str, Estimate]


def estimate(
    records: Sequence[Record],
    suite: Suite,
    *,
    resamples: int,
    seed: int,
    reference_records: Sequence[Record] | None = None,
    tasks: Tasks = NO_TASKS,
) -> Estimates:
    samples = draw(records, resamples, seed, reference_records)
    sets: dict[tuple[str, Role], dict[str, Estimate]] = {}
    for name, sample in samples.items():
        if metrics := suite.metrics_of(name, sample.role):
            scores = [[metric.of(record) for record in sample.records] for metric in metrics]
            found = means(scores, sample.counts_RI)
            sets[name, sample.role] = {metric.type: mean for metric, mean in zip(metrics, found, strict=True)}
    comparisons: dict[str, Estimate] = {each.type: each.estimate(samples) for each in suite.comparisons}
    accuracies = {
        task: drawn_from(row[ACCURACY], resamples, [seed, crc32(task.encode())])
        for task, row in tasks.items()
        if ACCURACY in row
    }
    aggregates: dict[str, Estimate] = {}
    for aggregate in suite.aggregates:
        aggregates[aggregate.name] = aggregate.estimate(sets, {**accuracies, **comparisons}, aggregates)
    return Estimates(sets, comparisons, aggregates)


def draw(
    records: Sequence[Record], resamples: int, seed: int, reference_records: Sequence[Record] | None = None
) -> Samples:
    """Each set's items with their resamples, and the reference model's records of the same items."""
    reference = {(record.set, record.index, record.question): record for record in reference_records or ()}
    samples = {}
    for name, group in groupby(sorted(records, key=_position), key=lambda record: record.set):
        items = tuple(group)
        samples[name] = Sample(
            role=items[0].role,
            records=items,
            reference=tuple(reference.get((record.set, record.index, record.question)) for record in items),
            counts_RI=resample(len(items), resamples, [seed, crc32(name.encode())]),
        )
    return samples


def _figures(estimates: Mapping[str, Estimate]) -> dict[str, Figure]:
    return {name: found.figure() for name, found in estimates.items()}


def _position(record: Record) -> tuple[int, str, int]:
    """The order that figures are computed and listed in, whatever order the records arrive in: forget first."""
    return list(Role).index(record.role), record.set, record.index
