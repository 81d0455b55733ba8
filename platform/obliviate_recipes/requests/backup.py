"""A ledger as JSON lines: a backup, and the way from SQLite to PostgreSQL or back.

The first line names the ledger, the last one says how many there are: a file that was cut short shows. Leases are not
in it: a runner that was at work when it was written has lost its batch to whoever runs on the restored ledger.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field
from sqlalchemy import Connection, Table, func, insert, select, update

from obliviate.config_file import parse
from obliviate.data.tables import read_objects
from obliviate.errors import UserError
from obliviate.runs import write_whole
from obliviate.schema import Spec
from obliviate_recipes.requests.database import count_on
from obliviate_recipes.requests.ledger import Ledger, fingerprint_of
from obliviate_recipes.requests.reading import identity_of, requests_of
from obliviate_recipes.requests.states import BatchState, NoteKind, RequestState
from obliviate_recipes.requests.tables import aliases, batches, identity, notes, requests, texts

FORMAT = "obliviate ledger 1"


class Begin(Spec):
    format: str
    ledger: str = Field(min_length=1)  # its identity


class BatchLine(Spec):
    id: int
    alias: str
    state: BatchState
    claimed_s: float
    base: str
    model: str | None
    promoted_s: float | None


class AliasLine(Spec):
    name: str
    model: str
    batch: int | None


class NoteLine(Spec):
    kind: NoteKind
    noted_s: float
    lines: str


class RequestLine(Spec):
    id: int
    alias: str
    requester: str
    received_s: float
    state: RequestState
    hashes: tuple[str, ...]
    alone: bool
    batch: int | None
    reason: str | None
    certificate: str | None
    ended_s: float | None
    notes: tuple[NoteLine, ...] = ()  # the version before had none


class Line(Spec):
    """One of them is given."""

    begin: Begin | None = None
    batch: BatchLine | None = None
    alias: AliasLine | None = None
    request: RequestLine | None = None
    end: int | None = None  # how many lines came before


def export(ledger: Ledger, path: Path) -> int:
    """Everything, as it is at one moment, written whole; how many requests."""
    with ledger.database.reading() as connection:
        found = requests_of(connection, requests.c.id.is_not(None))
        lines = [Line(begin=Begin(format=FORMAT, ledger=identity_of(connection)))]
        lines += [Line(batch=BatchLine(**each)) for each in _rows(connection, batches, BatchLine)]
        lines += [Line(alias=AliasLine(**each)) for each in _rows(connection, aliases, AliasLine)]
    lines += [
        Line(request=RequestLine(**vars(each) | {"notes": tuple(NoteLine(**vars(note)) for note in each.notes)}))
        for each in found
    ]
    lines.append(Line(end=len(lines)))
    dumped = (json.dumps(line.model_dump(mode="json", exclude_unset=True), ensure_ascii=False) for line in lines)
    try:
        write_whole(path, lambda file: file.write_text("\n".join(dumped) + "\n", encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give another path") from error
    return len(found)


def restore(connection: Connection, path: Path) -> int:
    """Into an empty ledger, which becomes the one that the backup is of; how many requests. Raises UserError."""
    for table in (aliases, batches, requests):
        if held := connection.execute(select(func.count()).select_from(table)).scalar_one():
            raise UserError(f"{path}: the ledger holds {held} {table.name} already; restore a backup into an empty one")
    lines = list(_read(path))
    connection.execute(update(identity).values(id=next(line.begin.ledger for line in lines if line.begin is not None)))
    leases = {"owner": "", "lease_until_s": 0.0}
    _insert(connection, batches, [{**line.batch.model_dump(), **leases} for line in lines if line.batch is not None])
    _insert(connection, aliases, [line.alias.model_dump() for line in lines if line.alias is not None])
    asked = [line.request for line in lines if line.request is not None]
    _insert(
        connection,
        requests,
        [
            {
                **each.model_dump(exclude={"hashes", "notes"}),
                "fingerprint": fingerprint_of(each.alias, each.requester, sorted(each.hashes)),
            }
            for each in asked
        ],
    )
    _insert(connection, texts, [{"request": each.id, "hash": one} for each in asked for one in each.hashes])
    _insert(connection, notes, [{"request": each.id, **one.model_dump()} for each in asked for one in each.notes])
    count_on(connection)
    return len(asked)


def _rows(connection: Connection, table: Table, kind: type[Spec]) -> list[dict[str, Any]]:
    columns = [table.c[name] for name in kind.model_fields]
    rows = connection.execute(select(*columns).order_by(*table.primary_key)).mappings()
    return [dict(row) for row in rows]


def _insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(table), rows)


def _read(path: Path) -> Iterator[Line]:
    """All but the last one. Raises UserError for a file that is no backup, or was cut short."""
    number, ended = 0, False
    for where, record in read_objects(path):
        line = parse(Line, record, where)
        if len(line.model_fields_set) != 1 or ended or (line.begin is not None) != (number == 0):
            raise UserError(f"{where}: is no line of a backup; give a file that `obliviate request export` wrote")
        if line.begin is not None and line.begin.format != FORMAT:
            raise UserError(f"{where}: is a {line.begin.format!r}; this version reads {FORMAT!r}")
        if line.end is not None:
            ended = line.end == number
        else:
            number += 1
            yield line
    if not ended:
        raise UserError(f"{path}: was cut short: its last line does not count the {number} before; give another backup")
