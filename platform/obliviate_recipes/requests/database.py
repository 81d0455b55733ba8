"""The database that a ledger lies in: a SQLite file, or PostgreSQL by URL.

Who reads holds no lock: SQLite is kept in WAL mode, where a reader sees what was committed when it began. Who writes on
SQLite takes the write lock when the transaction begins: what it read is still so when it writes.
"""

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, insert, inspect, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DataError, IntegrityError
from sqlalchemy.pool import ConnectionPoolEntry

from obliviate.errors import UserError
from obliviate.runs import exclusive
from obliviate_recipes.requests.tables import VERSION, batches, identity, metadata, notes, requests

BUSY_TIMEOUT_S = 60.0  # how long a writer waits for another one's transaction on SQLite
SCHEMA_LOCK = 0x0B11F1A7E  # any number: of PostgreSQL's advisory lock, so that two runners don't create tables at once
READS = "obliviate_reads"  # execution option of a transaction that writes nothing
CAUSES = {
    sqlite3.SQLITE_BUSY: "is locked by another process, a backup or a database browser say; run the same command again "
    "once that is done",
    sqlite3.SQLITE_READONLY: "it or its folder is read-only for this user, and SQLite writes beside the file even to "
    "read; make both writable, or copy them to where they are",
    sqlite3.SQLITE_FULL: "the disk is full, and nothing was changed; free some space and run the same command again",
    sqlite3.SQLITE_CANTOPEN: "this user cannot open it, or write to its folder; make both readable and writable",
    sqlite3.SQLITE_NOTADB: "is no SQLite file, so that it cannot be opened; give another path, or postgresql://...",
    sqlite3.SQLITE_CORRUPT: "is damaged; move it away and restore a backup with `obliviate request import`",
}


class NoLedgerError(UserError):
    """There is no ledger in this place."""


@dataclass(frozen=True)
class Database:
    engine: Engine
    name: str  # what it is called everywhere: the absolute path, or the URL without a password
    made: bool  # by this very call

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One state of everything, without a lock."""
        options = {"isolation_level": "REPEATABLE READ"} if self.engine.dialect.name == "postgresql" else {}
        with explained(self.name), self.engine.execution_options(**{READS: True}, **options).begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        with explained(self.name), self.engine.begin() as connection:
            yield connection


def open_database(url: str, *, create: bool = False) -> Database:
    """`url`: a path (SQLite) or a database URL. A ledger of an earlier version gets what this one has more.

    Raises NoLedgerError where there is none and none is to be made, UserError for what is neither, for a database that
    does not answer, and for a file that is none.
    """
    parsed = _parsed(url)
    path = Path(url).expanduser().absolute() if parsed is None else None
    name = str(path) if parsed is None else _without_secrets(parsed)
    try:
        if path is not None and create:
            path.parent.mkdir(parents=True, exist_ok=True)
        if path is not None and not create and not path.exists():
            raise NoLedgerError(f"ledger: {name}: is not there")
        engine = create_engine(parsed, pool_pre_ping=True) if parsed is not None else _sqlite(Path(name), create=create)
    except (OSError, ModuleNotFoundError) as error:  # the second: PostgreSQL's driver
        raise UserError(f"ledger: {name}: cannot be opened ({error}); give a path or postgresql://...") from error
    database = Database(engine, name, made=False)
    with database.reading() as connection:
        version = _version(connection)
    if version is None and not create:
        raise NoLedgerError(f"ledger: {name}: holds no ledger")
    if version == VERSION:
        return database
    if version is not None and version > VERSION:
        raise UserError(f"ledger: {name}: was made by a newer version of Obliviate; run that one")
    if path is None:
        made = _make(database)
    else:
        try:
            with exclusive(path):
                _use_wal(database)
                made = _make(database)
        except OSError as error:
            raise UserError(f"ledger: {name}: cannot be written ({error.strerror}); make it writable") from error
    return Database(engine, name, made)


def now_s(connection: Connection) -> float:
    """By the database's clock: runners on several machines need not agree on theirs."""
    clock = {
        "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
        "postgresql": "SELECT extract(epoch FROM clock_timestamp())",
    }[connection.dialect.name]
    return float(connection.execute(text(clock)).scalar_one())


def count_on(connection: Connection) -> None:
    """New numbers come after those that were inserted by hand. SQLite sees to it by itself."""
    if connection.dialect.name == "postgresql":
        for table in (requests, batches, notes):
            highest = select(func.max(table.c.id)).scalar_subquery()
            sequence = func.pg_get_serial_sequence(table.name, "id")
            connection.execute(select(func.setval(sequence, func.coalesce(highest, 1), highest.is_not(None))))


@contextmanager
def explained(name: str) -> Iterator[None]:
    """What the database refuses, as a UserError in one line. A row that may not be is no fault of the user's."""
    try:
        yield
    except DatabaseError as error:
        if isinstance(error, IntegrityError | DataError):
            raise
        code = getattr(error.orig, "sqlite_errorcode", None)
        cause = None if code is None else CAUSES.get(code & 0xFF)  # above it: which of its kind
        reason = " ".join(str(error.orig).split())
        if cause is None:
            cause = (
                f"does not answer ({reason}); run the same command again once it does: it goes on where the ledger "
                "stands"
            )
        raise UserError(f"ledger: {name}: {cause}") from error


def _parsed(url: str) -> URL | None:
    """None for a path."""
    if "://" not in url:
        return None
    try:
        # "postgresql://" without a driver means psycopg: the one that is installed with the project.
        parsed = make_url(url.replace("postgresql://", "postgresql+psycopg://", 1))
    except ArgumentError as error:
        raise UserError(f"ledger: {url}: no database URL; give a path or postgresql://user@host/name") from error
    if parsed.get_backend_name() != "postgresql":
        raise UserError(f"ledger: {url}: {parsed.get_backend_name()} is not supported; give a path or postgresql://...")
    return parsed


def _without_secrets(url: URL) -> str:
    """Without the password, and without options, which may hold one too."""
    return URL.create("postgresql", url.username, None, url.host, url.port, url.database).render_as_string()


def _version(connection: Connection) -> int | None:
    """Of the tables; None where there are none."""
    found = inspect(connection)
    if found.has_table(identity.name):
        return connection.execute(select(identity.c.version)).scalar()
    return 1 if found.has_table(requests.name) else None


def _make(database: Database) -> bool:
    """The tables and indexes that are missing, and an identity; whether there was nothing before."""
    with database.writing() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SCHEMA_LOCK})
        version = _version(connection)
        if version == VERSION:  # another process was quicker
            return False
        metadata.create_all(connection)
        for table in metadata.sorted_tables:  # create_all leaves tables alone that are there
            for index in table.indexes:
                index.create(connection, checkfirst=True)
        if version in (None, 1):  # none had an identity
            values = {"id": uuid.uuid4().hex, "version": VERSION, "made_s": now_s(connection)}
            connection.execute(insert(identity).values(values))
        else:
            connection.execute(update(identity).values(version=VERSION))
        return version is None


def _use_wal(database: Database) -> None:
    """The file remembers it. It cannot be changed within a transaction."""
    with explained(database.name):
        connection = database.engine.raw_connection()
        try:
            connection.cursor().execute("PRAGMA journal_mode = WAL")
        except sqlite3.Error as error:
            raise DatabaseError("PRAGMA journal_mode = WAL", None, error) from error
        finally:
            connection.close()


def _sqlite(path: Path, *, create: bool) -> Engine:
    """Opened to read and write: a file that has gone is never made anew but where `create` says so."""
    query = {"mode": "rwc" if create else "rw", "uri": "true"}
    url = URL.create("sqlite", database=f"file:{quote(str(path))}", query=query)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def own_transactions(connection: "object", _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]  # the driver's own BEGIN would be deferred

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get(READS, False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine
