"""From evaluation runs to the report: who each model is, where it came from, what was measured."""

import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obliviate import storage
from obliviate.errors import UserError
from obliviate.guardrail import NOT_REMOVED
from obliviate.labels import not_removed
from obliviate.runs import RUN_FILE, STEPS_FILE, Run, intact, record_of, write_json
from obliviate.schema import ModelSpec
from obliviate.train.log import mishaps, read_steps
from obliviate_eval.records import RECORDS_FILE, read_records
from obliviate_eval.report.model import Kind, ModelReport
from obliviate_eval.report.still_said import still_said
from obliviate_eval.report.terminal import Comparison, beyond_retain
from obliviate_eval.summary import METRICS_FILE, Evaluation
from obliviate_recipes.events import Events

if TYPE_CHECKING:
    from obliviate_eval.report.build import Section

REPORT, REPORT_JSON = "report.html", "report.json"
UNLEARNING = ("unlearn", "adapter", "fuse")  # verbs whose runs hold a model that has forgotten


def model_report(directory: Path) -> ModelReport:
    """Everything about one model, from its evaluation run and, where one of our runs made it, from that run."""
    directory = storage.fetch_loose(storage.local(directory))
    if not (directory / METRICS_FILE).exists():
        where = storage.url_of(directory) or directory
        raise UserError(f"{where}: no finished evaluation (no {METRICS_FILE}); give folders of evaluation runs")
    if not (directory / RUN_FILE).exists():
        return _imported(directory)
    evaluated = record_of(directory)
    model = ModelSpec.model_validate(evaluated["config"]["model"])
    training = storage.fetch_loose(storage.local(model.source).parent)
    made = record_of(training) if (training / RUN_FILE).exists() else None
    hidden = not_removed(model)
    return ModelReport(
        name=evaluated["label"] if hidden is None else f"{evaluated['label']} ({NOT_REMOVED})",
        kind=_kind(made),
        method=hidden or _method(made),
        evaluation=Evaluation.read(intact(directory / METRICS_FILE)),
        provenance={
            "model": model.source,
            "seed": None if made is None else made["config"]["seed"],
            "training": made,
            "evaluation": evaluated,
        },
        curve=() if made is None else read_steps(training),
        mishaps=() if made is None else (*mishaps(training), *_lost_of_log(training)),
        records=read_records(directory / RECORDS_FILE),
    )


def _lost_of_log(training: Path) -> list[str]:
    """Of a finished run: what its log had, and has no more."""
    run = Run(training, "")
    found = [what for name, what in run.damage().items() if name == STEPS_FILE]
    left = len(read_steps(training))
    return [f"its log {what}: {left} of {run.summary.get('steps', 'its')} steps can be read" for what in found]


def _imported(directory: Path) -> ModelReport:
    """Another framework's logs, as `obliviate import` writes them: how the model was made is not in them."""
    return ModelReport(
        name=directory.name,
        kind="original",
        evaluation=Evaluation.read(intact(directory / METRICS_FILE)),
        provenance={"imported": storage.name(directory)},
        records=read_records(directory / RECORDS_FILE),
    )


def write(
    title: str, models: Sequence[ModelReport], path: Path, events: Events, sections: "Sequence[Section]" = ()
) -> None:
    """The HTML, the same figures as JSON beside it, and a table on the terminal."""
    from obliviate_eval.report.build import build_report, report_json  # plotly

    seeds = (
        "of models of several seeds figures are means over them, with Student's t 95 % interval over seeds beside it, "
        "and forget quality is the geometric mean of p; their answers and curves are the first seed's"
        if any("seeds" in model.provenance for model in models)
        else "they say nothing of the spread over training seeds"
    )
    notes = [
        f"Intervals are 95% percentile bootstraps over items; {seeds}.",
        "The p-value of forget quality saturates once the samples no longer overlap: read the KS statistic with it.",
    ]
    if beyond := beyond_retain(models):
        distances = ", ".join(f"{name} {distance.strip()}" for name, distance in beyond.items())
        notes.append(
            "Forget efficacy also rewards answers less likely than a model that never knew them gives. From the retain "
            f"model's: {distances}."
        )
    notes += still_said(models)
    notes += (mishaps_told := [f"{model.name}: {text}" for model in models for text in model.mishaps])
    reported = [replace(model, provenance={**model.provenance, "machine": machine()}) for model in models]
    build_report(title, reported, notes, path, sections)
    write_json(path.with_suffix(".json"), report_json(reported))
    events.shown(Comparison(models))
    for line in (*still_said(models), *mishaps_told):
        events.warned(line)
    events.said(f"on {machine()}; another processor rounds otherwise, and may train other models of the same seed")
    events.said(f"report: {storage.name(path)}")


def machine() -> str:
    """Processor, cores and GPUs of the machine that writes the report."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0))
    return ", ".join([f"{platform.system()} {platform.machine()}", f"{_processor()}, {cores} cores", *gpus])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )


def _kind(made: dict[str, Any] | None) -> Kind:
    if made is None:
        return "original"
    if made["verb"] in UNLEARNING:
        return "unlearned"
    return "retain" if made["config"].get("train_on") == "retain" else "target"


def _method(made: dict[str, Any] | None) -> str | None:
    if made is None or made["verb"] not in UNLEARNING:
        return None
    config = made["config"]
    return "+".join(term["type"] for term in (config["method"], *config["regularizers"])).upper()
