"""What a caller has at hand, a model or rows, as a config names it."""

import json
from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from obliviate import storage
from obliviate.errors import UserError
from obliviate.runs import content_hash, write_whole

if TYPE_CHECKING:
    from pandas import DataFrame

    from obliviate.schema import ModelSpec

# A hub id, a folder or file, a run by its folder or name, or what a config's `model` says.
Model: TypeAlias = "str | PathLike[str] | Mapping[str, Any] | ModelSpec"
# A file or a data set, what a config says of one, or the rows themselves: objects, or plain texts.
Rows: TypeAlias = "str | PathLike[str] | Mapping[str, Any] | Iterable[Mapping[str, Any] | str] | DataFrame"

ROWS = "data"  # folder in that of all runs, of rows that were handed over in memory
OF_ROWS = ("forget", "retain", "holdout")  # the keys of data of files


def model_of(given: Model, runs: str) -> Any:
    """What a config says of it. Raises UserError."""
    from obliviate_recipes.named import named_model  # brings pydantic

    return named_model(fspath(given), Path(runs))[1] if isinstance(given, str | PathLike) else given


def data_of(
    data: Mapping[str, Any] | None, runs: str, forget: "Rows | None" = None, retain: "Rows | None" = None
) -> dict[str, Any] | None:
    """A config's `data`: what is said of it, of files where `forget` is given, with rows in memory written to a file.
    None where nothing is."""
    given = {key: rows for key, rows in (("forget", forget), ("retain", retain)) if rows is not None}
    if data is None and not given:
        return None
    found = {**({"type": "files"} if given else {}), **(data or {}), **given}
    if found.get("type") != "files":
        return found
    for key in OF_ROWS:
        if found.get(key) is not None:
            found[key] = _as_file(found[key], f"data.{key}", runs)
    if isinstance(sets := found.get("evaluation"), Mapping):
        found["evaluation"] = {
            name: {**each, "path": _as_file(each["path"], f"data.evaluation.{name}", runs)}
            if isinstance(each, Mapping) and "path" in each
            else each
            for name, each in sets.items()
        }
    return found


def _as_file(rows: Any, key: str, runs: str) -> Any:
    """A file with them, whose name is their content's; what names a file already, as it is."""
    if isinstance(rows, str | PathLike):
        return fspath(rows)
    if isinstance(rows, Mapping) or not isinstance(rows, Iterable):
        return rows
    table = [_row(each, f"{key}: row {number}") for number, each in enumerate(_objects(rows), 1)]
    name = f"{runs.rstrip('/')}/{ROWS}/{content_hash(table)[:16]}.jsonl"
    path = storage.fetch(storage.local(name))
    if not path.exists():
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in table)
        try:
            write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        except OSError as error:
            raise UserError(f"runs: {runs}: cannot be written ({error.strerror}); give another folder") from error
    return name


def _objects(rows: Iterable[Any]) -> Iterable[Any]:
    """One by one; of a table, an empty cell is null."""
    import pandas as pd

    return iter(json.loads(rows.to_json(orient="records"))) if isinstance(rows, pd.DataFrame) else rows


def _row(given: Any, where: str) -> dict[str, Any]:
    """As JSON has it. Raises UserError for what is no row, or holds what JSON cannot."""
    if isinstance(given, str):
        return {"text": given}
    if not isinstance(given, Mapping):
        raise UserError(f'{where} is a {type(given).__name__}; give {{"question": ..., "answer": ...}}, or a text')
    try:
        row = json.loads(json.dumps({key: value for key, value in given.items() if value is not None}))
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}; give texts, numbers, and lists of them") from error
    return dict(row)
