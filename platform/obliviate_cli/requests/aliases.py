"""The alias file: which model a name such as `production` stands for. The server reads it and follows it.

One JSON object, name -> model folder (absolute) or hub id, written whole: a reader sees the old file or the new one.
"""

import json
from pathlib import Path

from obliviate.errors import UserError
from obliviate.runs import exclusive, write_json


def read_aliases(path: Path) -> dict[str, str]:
    """Empty where there is no file yet. Raises UserError for a file of another kind."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"aliases: {path}: cannot be read ({error}); mend or remove it") from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UserError(f"aliases: {path}: is no object of name -> model folder; mend or remove it")
    return found


def set_alias(path: Path, name: str, model: str) -> None:
    """Other names stay as they are, also those that another process sets at the same moment.

    Raises UserError where the file can't be written.
    """
    try:
        with exclusive(path):
            write_json(path, {**read_aliases(path), name: model})
    except OSError as error:
        raise UserError(f"aliases: {path}: cannot be written ({error.strerror}); give another path") from error
