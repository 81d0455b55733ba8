"""What each verb does: load the config, show the plan or run the stages, say where the result lies.

A verb imports what it runs once its config is right: a typo need not wait for Ray.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich.console import Console

from obliviate import storage
from obliviate.config import FinetuneRun, UnlearnRun, load
from obliviate.schema import Spec
from obliviate_cli.console import open_console

if TYPE_CHECKING:
    from obliviate_eval.report.figures import FigureFormat
    from obliviate_eval.report.tables import Format


def finetune(path: Path, overrides: list[str], dry_run: bool) -> None:
    config, console = load(FinetuneRun, path, overrides), open_console()
    from obliviate_cli import plan, stages

    if dry_run:
        show(config, plan.finetune(config), console)
    else:
        console.print(f"model: {storage.name(stages.finetune(config, console))}")


def unlearn(path: Path, overrides: list[str], dry_run: bool) -> None:
    config, console = load(UnlearnRun, path, overrides), open_console()
    from obliviate_cli import plan, stages

    if dry_run:
        show(config, plan.unlearn(config), console)
    else:
        console.print(f"model: {storage.name(stages.unlearn(config, console))}")


def compare(path: Path, overrides: list[str], dry_run: bool) -> None:
    from obliviate_cli import plan
    from obliviate_cli.compare import CompareRun
    from obliviate_cli.compare import compare as run_compare

    config, console = load(CompareRun, path, overrides), open_console()
    if dry_run:
        show(config, plan.compare(config), console)
    else:
        run_compare(config, console)


def report(runs: list[Path], output: Path, title: str, forms: "Sequence[Format | FigureFormat]") -> None:
    from obliviate_cli import reporting
    from obliviate_cli.pooled import model_reports
    from obliviate_eval.report.figures import write_figures
    from obliviate_eval.report.tables import write_table

    console, path = open_console(), storage.local(output)
    models = model_reports(runs)
    reporting.write(title, models, path, console)
    for form in forms:
        if form == "svg" or form == "pdf":
            for file in write_figures(models, path, form):
                console.print(f"figure: {storage.name(file)}")
        else:
            console.print(f"table: {storage.name(write_table(models, path, form))}")


def show(config: Spec, lines: list[str], console: Console) -> None:
    console.print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    for line in lines:
        console.print(line)
