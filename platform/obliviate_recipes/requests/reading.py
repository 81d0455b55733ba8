"""What is asked of the ledger: each question is one look at the database, without a lock, by an index, and reads no
more than it answers, whatever the ledger has grown to.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ARRAY, Column, ColumnElement, Connection, any_, func, literal, select

from obliviate.aliases import Mark
from obliviate.errors import UserError
from obliviate_recipes.requests.database import open_database
from obliviate_recipes.requests.states import BatchState, NoteKind, RequestState
from obliviate_recipes.requests.tables import IS_UNDER_WAY, aliases, batches, identity, notes, requests, texts

OPEN = (RequestState.PENDING, RequestState.RUNNING)


@dataclass(frozen=True)
class Note:
    kind: NoteKind
    noted_s: float
    lines: str


@dataclass(frozen=True)
class Request:
    id: int
    alias: str
    requester: str
    received_s: float
    state: RequestState
    hashes: tuple[str, ...]  # of its texts
    alone: bool
    batch: int | None
    reason: str | None
    certificate: str | None
    ended_s: float | None
    notes: tuple[Note, ...] = ()

    @property
    def extended(self) -> Note | None:
        return next((note for note in self.notes if note.kind is NoteKind.EXTENDED), None)


@dataclass(frozen=True)
class Batch:
    id: int
    alias: str
    state: BatchState
    base: str
    requests: tuple[Request, ...]
    claimed_s: float
    model: str | None  # folder of the unlearned model
    promoted_s: float | None


class Reading:
    """`url`: the path of a SQLite file, or a PostgreSQL URL. Raises NoLedgerError where there is no ledger and none is
    to be made, UserError where it can't be opened, and from every method where it does not answer any more."""

    def __init__(self, url: str, *, create: bool = False) -> None:
        self.database = open_database(url, create=create)
        self.name, self.made = self.database.name, self.database.made

    @property
    def identity(self) -> str:
        """Random, and the same in every copy of this ledger."""
        with self.database.reading() as connection:
            return identity_of(connection)

    def requests(self, alias: str, *, state: RequestState | None = None, last: int | None = None) -> list[Request]:
        """The `last` ones, oldest first; None: all."""
        which = requests.c.alias == alias
        with self.database.reading() as connection:
            return requests_of(connection, which if state is None else which & (requests.c.state == state), last)

    def request(self, alias: str, number: int) -> Request:
        with self.database.reading() as connection:
            found = requests_of(connection, (requests.c.alias == alias) & (requests.c.id == number))
        if not found:
            raise UserError(f"request {number}: there is none for {alias}; `obliviate request list` shows them all")
        return found[0]

    def counts(self, alias: str) -> dict[RequestState, int]:
        """How many requests there are in each state; those that no request is in are left out."""
        of_each = select(requests.c.state, func.count()).where(requests.c.alias == alias).group_by(requests.c.state)
        with self.database.reading() as connection:
            return {RequestState(state): number for state, number in connection.execute(of_each)}

    def texts_waiting(self, alias: str) -> int:
        pending = (requests.c.alias == alias) & (requests.c.state == RequestState.PENDING)
        with self.database.reading() as connection:
            counted = select(func.count()).select_from(texts).join(requests, requests.c.id == texts.c.request)
            return connection.execute(counted.where(pending)).scalar_one()

    def waiting_too(self, alias: str, number: int) -> dict[int, int]:
        """Other open requests -> how many texts of request `number` they are about too."""
        with self.database.reading() as connection:
            own = connection.execute(select(texts.c.hash).where(texts.c.request == number)).scalars().all()
            found = asked_for(connection, alias, own, OPEN)
        return dict(sorted(Counter(each for _, each in found if each != number).items()))

    def certificates(self, alias: str) -> dict[int, str]:
        """Fulfilled request -> path of its certificate."""
        fulfilled = (requests.c.alias == alias) & (requests.c.state == RequestState.FULFILLED)
        certified = select(requests.c.id, requests.c.certificate).where(fulfilled, requests.c.certificate.is_not(None))
        with self.database.reading() as connection:
            return dict(sorted(connection.execute(certified).tuples()))

    def model_of(self, alias: str) -> str | None:
        """What the alias stands for by now; None before its first request."""
        with self.database.reading() as connection:
            return connection.execute(select(aliases.c.model).where(aliases.c.name == alias)).scalar()

    def forgotten(self, alias: str, among: Collection[str]) -> frozenset[str]:
        """Which of these hashes are of texts of fulfilled requests."""
        with self.database.reading() as connection:
            return frozenset(forgotten_by(connection, alias, among))

    def met(self, alias: str) -> int:
        """How many requests the alias's model has forgotten."""
        with self.database.reading() as connection:
            return met_by(connection, alias)

    def models_before(self, request: Request) -> tuple[list[str], str]:
        """The models that the alias stood for until a fulfilled request was met, and the one that met it."""
        with self.database.reading() as connection:
            met = connection.execute(select(batches.c.model).where(batches.c.id == request.batch)).scalar_one()
            until = (batches.c.alias == request.alias) & (batches.c.id <= request.batch)
            stood = connection.execute(select(batches.c.base).where(until).order_by(batches.c.id)).scalars()
            return list(dict.fromkeys(stood)), met

    def lacks(self, alias: str, mark: Mark) -> str | None:
        """What it does not know of what a ledger has known when it left the mark; None: it knows all."""
        with self.database.reading() as connection:
            own, met = identity_of(connection), met_by(connection, alias)
            batch = connection.execute(select(batches).where(batches.c.id == mark.batch)).mappings().first()
        if own != mark.ledger:
            return f"is the ledger {own}, not {mark.ledger}"
        if batch is None or batch["alias"] != alias or batch["promoted_s"] is None or batch["model"] != mark.model:
            return f"does not know that batch {mark.batch} has promoted {mark.model}"
        if met < mark.met:
            return f"knows {met} requests that {alias} has met, not {mark.met}"
        return None


def identity_of(connection: Connection) -> str:
    found: str = connection.execute(select(identity.c.id)).scalar_one()
    return found


def met_by(connection: Connection, alias: str) -> int:
    """How many requests the alias's model has forgotten: those that are fulfilled, and those of a batch that was
    promoted and is to be certified still."""
    mine = requests.c.alias == alias
    fulfilled = select(func.count()).where(mine, requests.c.state == RequestState.FULFILLED)
    promoted = select(batches.c.id).where(
        batches.c.alias == alias, IS_UNDER_WAY, batches.c.state == BatchState.PROMOTED
    )
    running = select(func.count()).where(requests.c.batch.in_(promoted), requests.c.state == RequestState.RUNNING)
    return sum(connection.execute(each).scalar_one() for each in (fulfilled, running))


def forgotten_by(connection: Connection, alias: str, among: Collection[str]) -> dict[str, int]:
    """Hash -> a request that had it forgotten, of those `among` these."""
    return dict(asked_for(connection, alias, list(among), [RequestState.FULFILLED]))


def asked_for(
    connection: Connection, alias: str, hashes: Sequence[str], states: Collection[RequestState]
) -> list[tuple[str, int]]:
    """(Hash, request) of these hashes, for the requests that are in one of these states.

    Two queries, where one with a join would do: a database that takes the requests of a state for few begins with them,
    and looks each hash up in each of them.
    """
    of_texts = select(texts.c.hash, texts.c.request).where(_among(connection, texts.c.hash, hashes))
    found = connection.execute(of_texts).tuples().all()
    numbers = sorted({number for _, number in found})
    states_of = select(requests.c.id, requests.c.alias, requests.c.state)
    rows = connection.execute(states_of.where(_among(connection, requests.c.id, numbers)))
    of_alias = {number for number, name, state in rows if name == alias and state in states}
    return [(each, number) for each, number in found if number in of_alias]


def _among(connection: Connection, column: Column[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """Whether the column has one of the values, which are one parameter: thousands would take longer than the search,
    and SQLite has 32,766 at most."""
    if connection.dialect.name == "postgresql":
        return column == any_(literal(values, ARRAY(column.type)))
    return column.in_(select(func.json_each(json.dumps(values)).table_valued("value").c.value))


def batch_of(connection: Connection, number: int) -> Batch:
    row = connection.execute(select(batches).where(batches.c.id == number)).mappings().one()
    kept = {key: row[key] for key in ("id", "alias", "base", "claimed_s", "model", "promoted_s")}
    members = requests_of(connection, requests.c.batch == number)
    return Batch(**kept, state=BatchState(row["state"]), requests=tuple(members))


def requests_of(connection: Connection, which: ColumnElement[bool], last: int | None = None) -> list[Request]:
    """The `last` ones, in the order in which they came."""
    newest = select(requests).where(which).order_by(requests.c.id.desc()).limit(last)
    rows: list[Any] = list(reversed(connection.execute(newest).mappings().all()))
    numbers = [row["id"] for row in rows]
    hashes: dict[int, list[str]] = defaultdict(list)
    of_these = select(texts).where(_among(connection, texts.c.request, numbers))
    for each in connection.execute(of_these.order_by(texts.c.request, texts.c.hash)):
        hashes[each.request].append(each.hash)
    noted: dict[int, list[Note]] = defaultdict(list)
    of_them = select(notes).where(_among(connection, notes.c.request, numbers))
    for each in connection.execute(of_them.order_by(notes.c.request, notes.c.id)):
        noted[each.request].append(Note(NoteKind(each.kind), each.noted_s, each.lines))
    return [
        Request(
            **{key: value for key, value in row.items() if key not in {"state", "fingerprint"}},
            state=RequestState(row["state"]),
            hashes=tuple(hashes[row["id"]]),
            notes=tuple(noted[row["id"]]),
        )
        for row in rows
    ]
