"""A ledger is opened where it knows all that the alias file and the certificates say it has known.

With one that was lost, or with an old copy, a runner would begin with the first model, teach it the forgotten rows as
rows to be kept, and let the alias stand for it.
"""

import os
import re
from pathlib import Path

from obliviate import storage
from obliviate.aliases import read_mark
from obliviate.errors import UserError
from obliviate_recipes.requests.certificate import ledger_of, verify
from obliviate_recipes.requests.database import NoLedgerError
from obliviate_recipes.requests.ledger import Ledger
from obliviate_recipes.requests.ledger_spec import LedgerSpec

FIX = "go on with that ledger, or restore it with `obliviate request import`, see docs/requests.md"


def open_ledger(config: LedgerSpec, *, create: bool = False) -> Ledger:
    """Where there is none it is made if `create` says so, and nobody knows of one. Raises UserError."""
    try:
        ledger = Ledger(config.ledger)
    except NoLedgerError as error:
        _check(config, None, str(error))
        if not create:
            raise UserError(
                f"{error}; `obliviate request init` makes an empty one, `obliviate request import` restores one"
            ) from error
        return Ledger(config.ledger, create=True)
    check(config, ledger)
    return ledger


def check(config: LedgerSpec, ledger: Ledger) -> None:
    """Raises UserError where it knows less than the alias file or the newest certificate does."""
    _check(config, ledger, f"ledger: {ledger.name}")


def _check(config: LedgerSpec, ledger: Ledger | None, begin: str) -> None:
    alias, path = config.alias, Path(config.aliases).absolute()
    said = {}
    if (mark := read_mark(path, alias)) is not None:
        said[str(path)] = mark
    if (newest := _newest_certificate(config)) is not None:
        statement, _ = verify(newest)
        stated = ledger_of(newest, statement)
        if stated is None and mark is None and (ledger is None or not ledger.met(alias)):
            raise UserError(f"{begin}, but {newest} says that {alias} has met requests; {FIX}")
        if stated is not None and (mark is None or mark.ledger == stated.ledger):  # else of one that shares `runs`
            said[str(newest)] = stated
    for where, each in said.items():
        lacking = "" if ledger is None else ledger.lacks(alias, each)
        if lacking is not None:
            raise UserError(
                f"{begin}{lacking and f': {lacking}'}, but {where} says that {alias} is as batch {each.batch} of the "
                f"ledger {each.ledger} at {each.path} left it, with {each.met} requests met; {FIX}"
            )


def _newest_certificate(config: LedgerSpec) -> Path | None:
    """Of the alias, in the folders of its batches: their names end with the time."""
    named = re.compile(rf"{re.escape(config.alias)}-\d+-(\d{{8}}T\d{{6}})")
    folder = storage.local(config.runs).absolute() / "requests"
    if storage.url_of(folder) is not None:
        names = [each.name for each in storage.children(folder)]
    else:  # paths of a hundred thousand batches would take seconds
        names = os.listdir(folder) if folder.is_dir() else []
    of_alias = [(found[1], name) for name in names if (found := named.fullmatch(name)) is not None]
    for _, name in sorted(of_alias, reverse=True):
        for path in storage.children(folder / name):
            if re.fullmatch(r"certificate-\d+\.json", path.name):
                return path
    return None
