"""A report of any evaluation runs, in which models that differ in nothing but their seed are one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obliviate import storage
from obliviate.runs import content_hash
from obliviate_eval.asked import suite_of
from obliviate_eval.pooling import pool
from obliviate_eval.records import RECORDS_FILE, Record, read_records
from obliviate_eval.report.model import ModelReport
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.summary import Estimates, estimate
from obliviate_recipes.events import Events
from obliviate_recipes.reporting import model_report, write

if TYPE_CHECKING:
    from obliviate_eval.report.figures import FigureFormat
    from obliviate_eval.report.tables import Format


def report(
    runs: Sequence[Path], output: Path, title: str, forms: Sequence["Format | FigureFormat"], events: Events
) -> None:
    """Of evaluation runs and imported logs, with tables or charts beside it."""
    from obliviate_eval.report.figures import write_figures
    from obliviate_eval.report.tables import write_table

    path, models = storage.local(output), model_reports(runs)
    write(title, models, path, events)
    for form in forms:
        if form == "svg" or form == "pdf":
            for file in write_figures(models, path, form):
                events.said(f"figure: {storage.name(file)}")
        else:
            events.said(f"table: {storage.name(write_table(models, path, form))}")


def model_reports(directories: Sequence[Path]) -> list[ModelReport]:
    """Of evaluation runs, in their order; those of several seeds of one training are one, where the first stands."""
    groups: dict[str, list[tuple[Path, ModelReport]]] = {}
    for directory in directories:
        report = model_report(directory)
        key = _all_but_the_seed(report.provenance) or storage.name(directory)
        groups.setdefault(key, []).append((directory, report))
    return [each for group in groups.values() for each in _one_or_all(group)]


def _all_but_the_seed(provenance: Mapping[str, Any]) -> str | None:
    """None where the model was not made by a training with a seed."""
    made, evaluated = provenance.get("training"), provenance.get("evaluation")
    if made is None or evaluated is None or "seed" not in made["config"]:
        return None
    config = {key: value for key, value in made["config"].items() if key != "seed"}
    laid_out = {key: value for key, value in evaluated["config"]["model"].items() if key != "source"}
    measured = {key: value for key, value in evaluated["inputs"].items() if key != "model"}
    trained = [made["verb"], made["label"], config, made["inputs"]]
    return content_hash([trained, evaluated["config"]["evaluation"], laid_out, measured])


def _one_or_all(group: Sequence[tuple[Path, ModelReport]]) -> list[ModelReport]:
    """One where every seed is there once."""
    reports = [report for _, report in group]
    seeds = [report.provenance.get("seed") for report in reports]
    if len(group) == 1 or len(set(seeds)) < len(seeds):
        return reports
    first = reports[0]
    return [
        ModelReport(
            name=f"{first.provenance['training']['label']} ({len(seeds)} seeds)",
            kind=first.kind,
            method=first.method,
            evaluation=pool([each.evaluation for each in reports], [_estimates(*each) for each in group]),
            provenance={
                "seeds": seeds,
                **{f"seed {seed}": dict(each.provenance) for seed, each in zip(seeds, reports, strict=True)},
            },
            curve=first.curve,
            records=first.records,
        )
    ]


def _estimates(directory: Path, report: ModelReport) -> Estimates:
    """Of a seed's figures, from its records and those of the retain model beside it."""
    evaluated = report.provenance["evaluation"]
    spec = EvaluationSpec.model_validate(evaluated["config"]["evaluation"])
    retain = evaluated["inputs"].get("retain")
    return estimate(
        report.records,
        suite_of(spec),
        resamples=spec.resamples,
        seed=spec.seed,
        reference_records=None if retain is None else _records(directory.parent / retain),
    )


def _records(run: Path) -> list[Record]:
    return read_records(storage.fetch(storage.local(run) / RECORDS_FILE))
