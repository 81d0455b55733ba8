"""A file of another framework's log."""

import json
from pathlib import Path
from typing import Any

from obliviate.errors import UserError


def read_json(path: Path, fix: str) -> Any:
    """`fix`: what to give instead. Raises UserError for a file that is not there, or holds no JSON."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; {fix}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: no readable JSON ({error}); {fix}") from error
