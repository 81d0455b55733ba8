"""The alias file: which model a name such as `production` stands for. The server follows it.

One JSON object, name -> a model of the server's config, a model's folder (absolute), or a hub id; written whole: a
reader sees the old file or the new one.
"""

import json
from pathlib import Path

from obliviate.errors import UserError
from obliviate.runs import exclusive, write_json


def read_aliases(path: Path, key: str = "aliases") -> dict[str, str]:
    """Empty where there is no file yet. `key`: where the config names it. Raises UserError for one of another kind."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{key}: {path}: cannot be read ({error}); mend or remove it") from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UserError(f"{key}: {path}: is no object of name -> model or model folder; mend or remove it")
    return found


def set_alias(path: Path, name: str, model: str, key: str = "aliases") -> None:
    """Other names stay as they are, also those that another process sets at the same moment.

    Raises UserError where the file is broken, or can't be written.
    """
    try:
        with exclusive(path):
            write_json(path, {**read_aliases(path, key), name: model})
    except OSError as error:
        raise UserError(f"{key}: {path}: cannot be written ({error.strerror}); give another path") from error
