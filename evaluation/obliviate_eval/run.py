"""Measuring a model: collect records, judge them, write them, compute the figures."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from obliviate.data.rows import EvaluationSet
from obliviate.data.text import TextEncoder
from obliviate.inference.engine import WhiteBox
from obliviate_eval.asked import suite_of
from obliviate_eval.collect import Progress, Sampling, collect
from obliviate_eval.judges import Judges
from obliviate_eval.records import RECORDS_FILE, Record, write_records
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.statistics import Figure
from obliviate_eval.suites.base import Suite
from obliviate_eval.summary import METRICS_FILE, Evaluation, summarise


def measure(
    engine: WhiteBox,
    text_encoder: TextEncoder,
    sets: Sequence[EvaluationSet],
    suite: Suite,
    sampling: Sampling,
    judges: Judges,
    on_progress: Progress,
) -> list[Record]:
    """Collected and judged: generations are judged here while the engine, elsewhere, goes on to score."""
    with ThreadPoolExecutor(max_workers=1) as aside:
        judging: list[Future[list[Record]]] = []

        def judge(generated: list[Record]) -> None:
            judging.append(aside.submit(judges.judge, generated, suite))

        collected = collect(engine, text_encoder, sets, suite, sampling, on_progress, judge)
        on_progress("judge", 0, len(collected))
        judged = judging[0].result()
        on_progress("judge", len(collected), len(collected))
    return [
        replace(
            record, similarity=each.similarity, entailment=each.entailment, fluency=each.fluency, verdict=each.verdict
        )
        for record, each in zip(collected, judged, strict=True)
    ]


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
    suite = suite_of(spec)
    sampling = Sampling(spec.generation, spec.sampling)
    records = measure(engine, text_encoder, sets, suite, sampling, judges, on_progress)
    write_records(directory / RECORDS_FILE, records)
    evaluation = summarise(
        records, suite, resamples=spec.resamples, seed=spec.seed, reference_records=reference_records
    ).model_copy(update={"tasks": {task: dict(row) for task, row in tasks.items()}})
    evaluation.write(directory / METRICS_FILE)
    return evaluation
