"""A published data set by name: a hub id, or a local folder with one JSON file for each of its parts."""

from collections.abc import Callable
from pathlib import Path

from obliviate import storage
from obliviate.data.hub import load_hub
from obliviate.data.rows import Row, parse_row, read_rows
from obliviate.errors import UserError


def folder_of(source: str) -> Path | None:
    """None where `source` names no folder. Raises UserError where it is written as a path and is none."""
    path = storage.fetch(storage.local(source).expanduser())
    if path.is_dir():
        return path
    if storage.is_path(source):
        raise UserError(f"data.source: {source}: no such folder; give a folder with the data set's JSON files")
    return None


def reader(source: str) -> Callable[[str], tuple[Row, ...]]:
    """Reads the part `name`: the file `name`.json of the folder, or the hub's configuration of that name."""
    folder = folder_of(source)
    if folder is not None:
        return lambda name: read_rows(folder / f"{name}.json")
    return lambda name: _read_hub(source, name)


def _read_hub(source: str, name: str) -> tuple[Row, ...]:
    records = load_hub(source, name, "train")
    return tuple(parse_row(record, f"{source} {name}, row {n}") for n, record in enumerate(records, 1))
