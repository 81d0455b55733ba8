"""`obliviate sweep` and `obliviate sweep promote`: load the config, show the plan or run."""

from pathlib import Path

import yaml

from obliviate.config import load
from obliviate_cli.console import open_console
from obliviate_cli.sweep import plan
from obliviate_cli.sweep.promote import promote as promote_trial
from obliviate_cli.sweep.run import sweep as run_sweep
from obliviate_cli.sweep.spec import SweepRun


def sweep(path: Path, overrides: list[str], dry_run: bool) -> None:
    config, console = load(SweepRun, path, overrides), open_console()
    if not dry_run:
        run_sweep(config, console)
        return
    console.print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    for line in plan.sweep(config):
        console.print(line)


def promote(trial: str, name: str | None, runs: Path) -> None:
    promote_trial(trial, name, runs, open_console())
