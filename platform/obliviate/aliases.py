"""The alias file: which model a name such as `production` stands for. The server follows it.

One JSON object, name -> a model of the server's config, a model's folder (absolute), or a hub id; written whole: a
reader sees the old file or the new one. Of names that a ledger of deletion requests promotes models for, LEDGERS says
which ledger, and how far it had come: whoever has lost it finds here that there was one.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from obliviate.errors import UserError
from obliviate.runs import exclusive, write_json
from obliviate.schema import Spec

LEDGERS = "$ledgers"  # no name: those begin with a letter or a digit


class Mark(Spec):
    """What a ledger knew when it promoted a model. One that knows less since is not that ledger, or an old copy."""

    ledger: str = Field(min_length=1)  # its identity
    path: str  # where it lay: absolute, or a URL
    batch: int  # the one that was promoted
    model: str  # by that batch
    met: int = Field(ge=0)  # requests that the model has forgotten

    def follows(self, other: "Mark") -> bool:
        """Whether the ledger that leaves this one knows of the other: it may be the same, left once more."""
        again = (other.batch, other.model) == (self.batch, self.model)
        return other.ledger == self.ledger and (other.batch < self.batch or again)


def read_aliases(path: Path, key: str = "aliases") -> dict[str, str]:
    """Empty where there is no file yet. `key`: where the config names it. Raises UserError for one of another kind."""
    return {name: model for name, model in _read(path, key).items() if name != LEDGERS}


def read_mark(path: Path, name: str, key: str = "aliases") -> Mark | None:
    """What the file says of the ledger that promotes models for `name`. Raises UserError as `read_aliases`."""
    marked = _read(path, key).get(LEDGERS, {}).get(name)
    try:
        return None if marked is None else Mark.model_validate(marked)
    except ValidationError as error:
        wrong = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"{key}: {path}: {LEDGERS}.{name}: {wrong} is missing or wrong; restore the file") from error


def set_alias(path: Path, name: str, model: str | None, key: str = "aliases", mark: Mark | None = None) -> None:
    """Other names stay as they are, also those that another process sets at the same moment, and so does the ledger's
    mark unless there is a new one. `model` None takes the name out.

    Raises UserError where the file is broken, can't be written, or bears the mark of another ledger or a later batch.
    """
    try:
        with exclusive(path):
            found = {each: its for each, its in (_read(path, key) | {name: model}).items() if its is not None}
            if mark is not None:
                was = read_mark(path, name, key)
                if was is not None and not mark.follows(was):
                    raise UserError(
                        f"{key}: {path}: {name} is as batch {was.batch} of the ledger {was.ledger} at {was.path} left "
                        f"it, which {mark.path} ({mark.ledger}, batch {mark.batch}) does not know; go on with the first"
                    )
                found[LEDGERS] = {**found.get(LEDGERS, {}), name: mark.model_dump()}
            write_json(path, found)
    except OSError as error:
        raise UserError(f"{key}: {path}: cannot be written ({error.strerror}); give another path") from error


def _read(path: Path, key: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{key}: {path}: cannot be read ({error}); mend or remove it") from error
    kinds = {LEDGERS: dict}
    if not isinstance(found, dict) or not all(isinstance(each, kinds.get(name, str)) for name, each in found.items()):
        raise UserError(f"{key}: {path}: is no object of name -> model or model folder; mend or remove it")
    return found
