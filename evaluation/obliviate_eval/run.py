"""Measuring a model, in two parts: the records that its engine gives, and the figures that are computed of them."""

from collections.abc import Sequence
from pathlib import Path

from obliviate.data.rows import EvaluationSet
from obliviate.data.text import TextEncoder
from obliviate.inference.engine import WhiteBox
from obliviate_eval.asked import suite_of
from obliviate_eval.collect import Progress, Sampling, collect
from obliviate_eval.judges import Judges
from obliviate_eval.records import RECORDS_FILE, Record, write_records
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.summary import METRICS_FILE, NO_TASKS, Evaluation, Tasks, summarise


def records(
    engine: WhiteBox,
    text_encoder: TextEncoder,
    sets: Sequence[EvaluationSet],
    spec: EvaluationSpec,
    directory: Path,
    on_progress: Progress = lambda stage, done, total: None,
) -> list[Record]:
    """What the engine says of every item, not yet judged; also as `records.parquet` in `directory`."""
    sampling = Sampling(spec.generation, spec.sampling)
    found = collect(engine, text_encoder, sets, suite_of(spec), sampling, on_progress)
    write_records(directory / RECORDS_FILE, found)
    return found


def figures(
    records: Sequence[Record],
    spec: EvaluationSpec,
    judges: Judges,
    directory: Path,
    on_progress: Progress = lambda stage, done, total: None,
    *,
    reference_records: Sequence[Record] | None = None,
    tasks: Tasks = NO_TASKS,
) -> Evaluation:
    """Of records that were collected for the suite, or for another that asks for the same. Writes `records.parquet`,
    now judged, and `metrics.json` into `directory`.

    `reference_records` are those of a model that never saw the forget set, measured on the same sets: they add forget
    quality. `tasks` are figures of general ability, measured apart.
    """
    suite = suite_of(spec)
    on_progress("judge", 0, len(records))
    judged = judges.judge(records, suite)
    on_progress("judge", len(records), len(records))
    write_records(directory / RECORDS_FILE, judged)
    evaluation = summarise(
        judged, suite, resamples=spec.resamples, seed=spec.seed, reference_records=reference_records, tasks=tasks
    )
    evaluation.write(directory / METRICS_FILE)
    return evaluation
