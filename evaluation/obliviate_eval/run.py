"""Measuring a model: collect records, judge them, write them, compute the figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from obliviate.data.rows import EvaluationSet
from obliviate.data.text import TextEncoder
from obliviate.inference.engine import WhiteBox
from obliviate_eval.collect import Progress, Sampling, collect
from obliviate_eval.judges import Judges
from obliviate_eval.records import RECORDS_FILE, Record, write_records
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.statistics import Figure
from obliviate_eval.suites import SUITES
from obliviate_eval.summary import METRICS_FILE, Evaluation, summarise


def evaluate(
    engine: WhiteBox,
    text_encoder: TextEncoder,
    sets: Sequence[EvaluationSet],
    spec: EvaluationSpec,
    judges: Judges,
    directory: Path,
    on_progress: Progress = lambda stage, done, total: None,
    *,
    reference_records: Sequence[Record] | None = None,
    tasks: Mapping[str, Mapping[str, Figure]] = MappingProxyType({}),
) -> Evaluation:
    """Writes `records.parquet` and `metrics.json` into `directory`.

    `reference_records` are those of a model that never saw the forget set, measured on the same sets: they add forget
    quality. `judges` are loaded already, so that a missing one fails before an hour of generation, not after it.
    `tasks` are figures of general ability, measured apart.
    """
    suite = SUITES[spec.suite]
    sampling = Sampling(spec.generation, spec.sampling)
    collected = collect(engine, text_encoder, sets, suite.needs_of, sampling, on_progress)
    records = judges.judge(collected, suite, on_progress)
    write_records(directory / RECORDS_FILE, records)
    evaluation = summarise(
        records, suite, resamples=spec.resamples, seed=spec.seed, reference_records=reference_records
    ).model_copy(update={"tasks": {task: dict(row) for task, row in tasks.items()}})
    evaluation.write(directory / METRICS_FILE)
    return evaluation
