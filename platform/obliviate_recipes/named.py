"""A model by what a user calls it."""

from pathlib import Path
from typing import Any

from obliviate import storage
from obliviate.errors import UserError
from obliviate.runs import DONE_FILE, RUN_FILE, Run, record_of
from obliviate_recipes.stage import MODEL


def named_model(given: str, runs: Path) -> tuple[str, dict[str, Any]]:
    """Name and spec of a run's folder, a run's name, a model's folder or file, or a hub id.

    A model that one of our runs made is laid out as that run laid out its texts. Raises UserError.
    """
    path = storage.local(given).expanduser()
    if storage.fetch(path / RUN_FILE).exists():
        return _trained(path)
    if path.name == MODEL and storage.fetch(path.parent / RUN_FILE).exists():
        return _trained(path.parent)
    if "/" not in given and not path.exists() and (found := _of_name(given, runs)):
        if len(found) > 1:
            raise UserError(f"{given}: several runs have this name: {', '.join(map(str, found))}; give one")
        return _trained(found[0])
    return path.name.removeprefix("package:"), {"source": given}


def _of_name(name: str, runs: Path) -> list[Path]:
    """Finished runs with a model, by the name that they were given or made from."""
    whole = (folder for folder in storage.children(storage.local(runs)) if _is_whole(folder))
    return [folder for folder in whole if storage.is_folder(folder / MODEL) and record_of(folder)["label"] == name]


def _is_whole(folder: Path) -> bool:
    return all(storage.fetch(folder / file).exists() for file in (RUN_FILE, DONE_FILE))


def _trained(run: Path) -> tuple[str, dict[str, Any]]:
    for file, what in Run(run, "").damage().items():
        if file.startswith(f"{MODEL}/"):
            raise UserError(f"{run}: {file} {what}; run the command that made it again, and it is made anew")
    if not storage.is_folder(run / MODEL):
        raise UserError(f"{run}: no model in this run; give one that has been trained to its end")
    record = record_of(run)
    layout = {**record["config"]["model"], "base": None, "lora": None, "revision": None}
    return record["label"], {**layout, "source": storage.name(run / MODEL)}
