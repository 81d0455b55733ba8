"""Making a trial's model a named one: `runs/models/NAME/model`, which no clearing of runs takes away."""

import shutil
from pathlib import Path

from obliviate import storage
from obliviate.errors import UserError
from obliviate.runs import LOCK_FILE, Run, is_log, whole_folder
from obliviate_recipes.events import Events
from obliviate_recipes.stage import MODEL
from obliviate_recipes.sweeps.records import TrialRecord, read_records

LEFT_BEHIND = ("ray", "checkpoints", LOCK_FILE, storage.MARK)
MODELS = "models"  # folder of the named models in that of all runs


def keep(trial: str, name: str | None, runs: Path, events: Events) -> Path:
    """Copy the trial's whole run, with its config, its steps and its card; the model's folder.

    Raises UserError where there is no such trial, it has no model, or the name is taken.
    """
    if name is not None and (name in (".", "..") or Path(name).name != name):
        raise UserError(f"--name: {name}: give a plain name, without a folder before it")
    record = find_trial(runs, trial)
    if record.status != "done" or record.run is None:
        why = f": {record.cause}" if record.cause else ""
        raise UserError(f"{record.id}: is {record.status}{why}, and has no finished model; keep one that is done")
    folder = storage.local(runs).absolute() / MODELS / (name or f"{record.method}-{record.id}")
    if storage.is_folder(folder):
        raise UserError(f"--name: {folder} is there already; give another name, or remove it")
    run = storage.fetch_loose(storage.local(record.run))
    for file, what in Run(run, "").damage(read=True).items():
        if not is_log(file):
            raise UserError(f"{record.run}: {file} {what}; run the sweep's command for {record.id} again")
    if not storage.fetch(run / MODEL).is_dir():
        raise UserError(f"{record.run}: has no model any more; run the sweep's command for {record.id} again")
    with whole_folder(folder) as temporary:
        shutil.copytree(run, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
    events.said(f"model: {storage.name(folder / MODEL)}")
    return folder / MODEL


def find_trial(runs: Path, trial: str) -> TrialRecord:
    """The record of the trial whose id begins with `trial`; with the name of a sweep's folder and a slash before it, of
    that sweep alone. Raises UserError where it is none, or several.

    Ids are of method, values and seed: sweeps on other data, or of another model, have trials of the same id.
    """
    sweep, _, beginning = trial.rpartition("/")
    found = {
        f"{folder.name}/{record.id}": record
        for folder in storage.children(storage.local(runs))
        if folder.name.startswith("sweep-") and sweep in ("", folder.name)
        for record in read_records(folder)
        if record.id.startswith(beginning)
    }
    if not found:
        raise UserError(f"{trial}: no sweep in {runs} has such a trial; its report lists them (other runs: --runs)")
    ids = sorted({record.id for record in found.values()})
    if len(ids) > 1:
        raise UserError(f"{trial}: {len(ids)} trials begin so: {', '.join(ids)}; give one of them")
    models = {record.run: name for name, record in found.items() if record.status == "done"}
    if len(models) > 1:
        raise UserError(
            f"{trial}: {len(models)} sweeps have it, each with a model of its own; give one of "
            f"{', '.join(sorted(models.values()))}"
        )
    return found[next(iter(models.values()), next(iter(found)))]
