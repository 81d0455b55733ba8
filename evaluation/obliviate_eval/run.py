"""Measuring a model: collect records, judge them, write them, compute the figures."""

from collections.abc import Sequence
from pathlib import Path

from obliviate.data.rows import EvaluationSet
from obliviate.data.text import TextEncoder
from obliviate.inference.engine import Engine
from obliviate_eval.collect import Progress, collect
from obliviate_eval.judges import Judges
from obliviate_eval.records import RECORDS_FILE, Record, write_records
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.suites import SUITES
from obliviate_eval.summary import METRICS_FILE, Evaluation, summarise


def evaluate(
    engine: Engine,
    text_encoder: TextEncoder,
    sets: Sequence[EvaluationSet],
    spec: EvaluationSpec,
    judges: Judges,
    directory: Path,
    on_progress: Progress = lambda stage, done, total: None,
    *,
    reference_records: Sequence[Record] | None = None,
) -> Evaluation:
    """Writes `records.parquet` and `metrics.json` into `directory`.

    `reference_records` are those of a model that never saw the forget set, measured on the same sets: they add forget
    quality. `judges` are loaded already, so that a missing one fails before an hour of generation, not after it.
    """
    suite = SUITES[spec.suite]
    collected = collect(engine, text_encoder, sets, suite.needs, spec.generation, on_progress)
    records = judges.judge(collected, suite, on_progress)
    write_records(directory / RECORDS_FILE, records)
    evaluation = summarise(
        records, suite, resamples=spec.resamples, seed=spec.seed, reference_records=reference_records
    )
    evaluation.write(directory / METRICS_FILE)
    return evaluation
