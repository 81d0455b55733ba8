"""What each verb does: load the config, show the plan or run the stages, say where the result lies."""

from pathlib import Path

import yaml
from rich.console import Console

from obliviate.config import FinetuneRun, UnlearnRun, load
from obliviate.errors import UserError
from obliviate.schema import Spec
from obliviate_cli import plan, reporting, stages
from obliviate_cli.compare import CompareRun
from obliviate_cli.compare import compare as run_compare
from obliviate_cli.console import open_console
from obliviate_cli.measure import EvaluateRun, Measure
from obliviate_eval.importers.tofu import read_tofu_log
from obliviate_eval.records import RECORDS_FILE, write_records
from obliviate_eval.report.terminal import print_table
from obliviate_eval.suites import SUITES
from obliviate_eval.summary import METRICS_FILE, summarise

IMPORTERS = {"tofu": read_tofu_log}


def finetune(path: Path, overrides: list[str], dry_run: bool) -> None:
    config, console = load(FinetuneRun, path, overrides), open_console()
    if dry_run:
        show(config, plan.finetune(config), console)
    else:
        console.print(f"model: {stages.finetune(config, console)}")


def unlearn(path: Path, overrides: list[str], dry_run: bool) -> None:
    config, console = load(UnlearnRun, path, overrides), open_console()
    if dry_run:
        show(config, plan.unlearn(config), console)
    else:
        console.print(f"model: {stages.unlearn(config, console)}")


def compare(path: Path, overrides: list[str], dry_run: bool) -> None:
    config, console = load(CompareRun, path, overrides), open_console()
    if dry_run:
        show(config, plan.compare(config), console)
    else:
        run_compare(config, console)


def evaluate(path: Path, overrides: list[str], dry_run: bool) -> None:
    config, console = load(EvaluateRun, path, overrides), open_console()
    if dry_run:
        show(config, plan.evaluate(config), console)
        return
    measure = Measure(config.data.load(), config.evaluation, config.address, Path(config.runs), console)
    retain = config.retain_model
    reference = None if retain is None else measure(retain, config.models[retain])
    others = [measure(name, model, reference) for name, model in config.models.items() if name != retain]
    measured = [each for each in (reference, *others) if each is not None]
    print_table([reporting.model_report(each) for each in measured], console)
    for each in measured:
        console.print(f"records and figures: {each}")


def report(runs: list[Path], output: Path, title: str) -> None:
    console = open_console()
    reporting.write(title, [reporting.model_report(run) for run in runs], output, console)


def import_logs(framework: str, logs: Path, retain_logs: Path | None, output: Path | None) -> None:
    if framework not in IMPORTERS:
        raise UserError(f"{framework}: no importer; known: {', '.join(IMPORTERS)}")
    read, console = IMPORTERS[framework], open_console()
    records = read(logs)
    reference = None if retain_logs is None else read(retain_logs)
    evaluation = summarise(records, SUITES["tofu"], reference_records=reference)
    if output is not None:
        write_records(output / RECORDS_FILE, records)
        evaluation.write(output / METRICS_FILE)
    console.print(yaml.safe_dump(evaluation.model_dump(mode="json"), sort_keys=False))


def show(config: Spec, lines: list[str], console: Console) -> None:
    console.print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    for line in lines:
        console.print(line)
