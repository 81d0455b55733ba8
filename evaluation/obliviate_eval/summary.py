"""From records to figures: works on a CPU, from the file, without the model."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from zlib import crc32

from pydantic import Field, ValidationError

from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate.runs import write_json
from obliviate.schema import Spec
from obliviate_eval.forget_quality import ForgetQuality, forget_quality
from obliviate_eval.records import Record
from obliviate_eval.statistics import Figure, Mean, means, resample
from obliviate_eval.suites.base import Suite

METRICS_FILE = "metrics.json"


class Evaluation(Spec):
    """What `metrics.json` holds."""

    suite: str
    roles: dict[str, Role]  # of each set
    sets: dict[str, dict[str, Figure]]  # set -> metric -> figure
    aggregates: dict[str, Figure]
    forget_quality: ForgetQuality | None = None  # needs the records of a model that never saw the forget set
    tasks: dict[str, dict[str, Figure]] = Field({})  # of the lm-evaluation-harness: task -> metric -> figure

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


def summarise(
    records: Sequence[Record],
    suite: Suite,
    *,
    resamples: int = 1000,
    seed: int = 0,
    reference_records: Sequence[Record] | None = None,
) -> Evaluation:
    """Every figure of the suite. The order of the records doesn't matter.

    Each set is resampled with its own seed, the same for every model: two models' intervals rest on the same draws.
    """
    roles: dict[str, Role] = {}
    by_set: dict[tuple[str, Role], dict[str, Mean]] = {}
    for name, group in groupby(sorted(records, key=_position), key=lambda record: record.set):
        items = list(group)
        roles[name] = items[0].role
        counts_RI = resample(len(items), resamples, [seed, crc32(name.encode())])
        scores = [[metric.score(record) for record in items] for metric in suite.metrics]
        found = means(scores, counts_RI)
        by_set[name, roles[name]] = {metric.type: mean for metric, mean in zip(suite.metrics, found, strict=True)}
    return Evaluation(
        suite=suite.name,
        roles=roles,
        sets={name: {metric: mean.figure() for metric, mean in row.items()} for (name, _), row in by_set.items()},
        aggregates={aggregate.name: aggregate.figure(by_set) for aggregate in suite.aggregates},
        forget_quality=None if reference_records is None else forget_quality(records, reference_records),
    )


def _position(record: Record) -> tuple[int, str, int]:
    """The order that figures are computed and listed in, whatever order the records arrive in: forget first."""
    return list(Role).index(record.role), record.set, record.index
