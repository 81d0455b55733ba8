"""`obliviate rescore`: figures from the records of finished evaluations, without the model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from rich.text import Text

from obliviate import config_file, storage
from obliviate.config_file import RunSpec, build
from obliviate.console_table import ConsoleTable
from obliviate.errors import UserError
from obliviate.labels import not_removed
from obliviate.plugins import by_name
from obliviate.runs import RUN_FILE, intact, record_of, write_json
from obliviate.schema import ModelSpec
from obliviate_eval.asked import suite_of
from obliviate_eval.forget_quality import ForgetQuality
from obliviate_eval.judges.load import load_judges
from obliviate_eval.metrics import Comparison, EitherSpec
from obliviate_eval.records import RECORDS_FILE, Record, read_records
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.statistics import Figure
from obliviate_eval.suites.base import Suite
from obliviate_eval.summary import METRICS_FILE, NO_TASKS, Evaluation, summarise
from obliviate_recipes.events import QUIET, Events
from obliviate_recipes.placement import judged_folder
from obliviate_recipes.stages.cautions import of_verdicts


class Rescoring(RunSpec):
    """What `--metric`, `--suite` and `--judge` come to."""

    metrics: tuple[EitherSpec, ...] = ()
    evaluation: EvaluationSpec = EvaluationSpec()


def rescore(
    runs: Sequence[Path],
    metrics: Sequence[str],
    suite: str | None,
    retain: Path | None,
    output: Path | None,
    judge: Path | None = None,
    *,
    events: Events = QUIET,
) -> None:
    """`metrics`: each a name, with parameters behind it ("truth_ratio definition=tofu"); none: those of the suite.

    `output`: a JSON file for what is printed. `judge`: a YAML file with the keys of `evaluation.judge`, which is asked
    of the generations; its replies lie beside the runs. The runs themselves stay as they are.
    """
    asked = [_metric(text) for text in metrics]
    reference = None if retain is None else read_records(_here(retain) / RECORDS_FILE)
    found: dict[str, Evaluation] = {}
    titles: dict[str, str] = {}
    for run in map(_here, runs):
        spec = measured_with(run)
        given = {
            **({} if suite is None else {"suite": suite}),
            **({} if judge is None else {"judge": config_file.read(judge)}),
        }
        values = {"metrics": asked, "evaluation": {**spec, **given}}
        rescoring = build(Rescoring, values, where="rescore")
        name = storage.url_of(run) or str(run)
        titles[name] = title_of(run)
        found[name] = summarise(
            read_records(run / RECORDS_FILE) if judge is None else _judged(run, rescoring, events),
            _suite(rescoring),
            resamples=rescoring.evaluation.resamples,
            seed=rescoring.evaluation.seed,
            reference_records=reference,
            tasks=Evaluation.read(intact(run / METRICS_FILE)).tasks if (run / METRICS_FILE).exists() else NO_TASKS,
        )
    events.shown(figures_table(found, titles))
    if output is not None:
        figures = {run: evaluation.model_dump(mode="json") for run, evaluation in found.items()}
        write_json(storage.local(output), {run: {"title": titles[run], **each} for run, each in figures.items()})


def _judged(run: Path, rescoring: Rescoring, events: Events) -> list[Record]:
    """The run's records with the judge's verdicts."""
    spec = rescoring.evaluation.model_copy(update={"encoder": None, "nli": None, "fluency": None})
    judges = load_judges(spec, judged_folder(run.parent))
    records = judges.judge(read_records(run / RECORDS_FILE), suite_of(spec))
    if judges.verdict is not None and (warning := of_verdicts(judges.verdict.unanswered)):
        events.warned(f"{run.name}: {warning}")
    return records


def _here(run: Path) -> Path:
    return storage.fetch_loose(storage.local(run))


def _suite(rescoring: Rescoring) -> Suite:
    """That of the evaluation, with the metrics that were asked for in place of its own."""
    base, chosen = suite_of(rescoring.evaluation), rescoring.metrics
    if not chosen:
        return base
    names = [each.type for each in chosen]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--metric {twice}: twice in one call, and figures go by that name; ask for each by itself")
    return replace(
        base,
        metrics=tuple(each for each in chosen if not isinstance(each, Comparison)),
        comparisons=tuple(each for each in chosen if isinstance(each, Comparison)),
        aggregates=(),
        sets={},
    )


def _metric(text: str) -> dict[str, Any]:
    """ "truth_ratio definition=tofu" -> its config."""
    name, *parameters = text.split() or [""]
    pairs = [parameter.partition("=") for parameter in parameters]
    for key, equals, _ in pairs:
        if not equals:
            raise UserError(f"--metric {text!r}: {key!r}: write parameters as key=value behind the metric's name")
    try:
        return {**by_name(name), **{key: yaml.safe_load(value) for key, _, value in pairs}}
    except yaml.YAMLError as error:
        raise UserError(f"--metric {text!r}: a value is no YAML: {str(error).partition(chr(10))[0]}") from error


def measured_with(run: Path) -> dict[str, Any]:
    """Suite and bootstrap of the run; of imported logs, which have no config, the suite alone."""
    if (run / RUN_FILE).exists():
        record = record_of(run)
        if record["verb"] != "evaluate":
            raise UserError(f"{run}: a run of `{record['verb']}`, which holds no records; give one of `evaluate`")
        evaluation: dict[str, Any] = record["config"]["evaluation"]
        return {key: evaluation[key] for key in ("suite", "resamples", "seed", "judge", "nli") if key in evaluation}
    return {"suite": Evaluation.read(intact(run / METRICS_FILE)).suite}


def title_of(run: Path) -> str:
    """What tables call an evaluation: where something is hidden in its model rather than removed, that too."""
    if not (run / RUN_FILE).exists():
        return run.name
    record = record_of(run)
    hidden = not_removed(ModelSpec.model_validate(record["config"]["model"]))
    return run.name if hidden is None else f"{run.name} ({hidden})"


def figures_table(found: Mapping[str, Evaluation], titles: Mapping[str, str]) -> ConsoleTable:
    """A row for each figure, a column for each run."""
    table = ConsoleTable(caption="behind each figure its 95 % bootstrap interval and how many items it rests on")
    table.add_column("")
    for run in found:
        table.add_column(Text(titles[run]), overflow="fold")
    rows = {run: _rows(evaluation) for run, evaluation in found.items()}
    for title in dict.fromkeys(title for figures in rows.values() for title in figures):
        table.add_row(title, *(_cell(figures.get(title)) for figures in rows.values()))
    return table


def _rows(evaluation: Evaluation) -> dict[str, Figure]:
    of_sets = {f"{name} {metric}": figure for name, row in evaluation.sets.items() for metric, figure in row.items()}
    return {**of_sets, **evaluation.comparisons, **evaluation.aggregates, **_quality(evaluation.forget_quality)}


def _quality(quality: ForgetQuality | None) -> dict[str, Figure]:
    """Without intervals: each is of all items at once."""
    if quality is None:
        return {}
    values = {"p-value": quality.p_value, "log10 p": quality.log10_p, "KS statistic": quality.statistic}
    return {
        f"forget quality {name}": Figure(value, None, None, quality.scored, quality.unscored)
        for name, value in values.items()
    }


def _cell(figure: Figure | None) -> Text:
    if figure is None:
        return Text("")
    counts = f"n {figure.scored}" + (f", {figure.unscored} unscored" if figure.unscored else "")
    if figure.value is None:
        return Text(f"– ({counts})")
    interval = "" if figure.low is None or figure.high is None else f" {figure.low:.3f} to {figure.high:.3f}"
    return Text(f"{figure.value:.4f}{interval} ({counts})")
