"""The ledger's tables, and the database they lie in: a SQLite file, or PostgreSQL by URL.

Two indexes say what must never be, whatever the program does: two open requests by one requester about the same texts,
and two batches under way for one alias (each starts from the model that the last one promoted).
"""

from pathlib import Path

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError
from sqlalchemy.pool import ConnectionPoolEntry

from obliviate.errors import UserError
from obliviate_recipes.requests.states import ENDED, RequestState

BUSY_TIMEOUT_S = 60.0  # how long a writer waits for another one's transaction on SQLite
SCHEMA_LOCK = 0x0B11F1A7E  # any number: of PostgreSQL's advisory lock, so that two runners don't create tables at once

metadata = MetaData()

requests = Table(
    "requests",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("alias", String, nullable=False),  # of the model that is to forget
    Column("requester", String, nullable=False),  # opaque to us
    Column("received_s", Float, nullable=False),  # since the epoch, by the database's clock, as all times here
    Column("fingerprint", String, nullable=False),  # of requester and texts
    Column("state", String, nullable=False),
    Column("alone", Boolean, nullable=False),  # to be tried in a batch of its own: the one it was in failed
    Column("batch", Integer, ForeignKey("batches.id")),  # the last that it was in
    Column("reason", String),  # why the policy was not met
    Column("certificate", String),  # path of the JSON file
    Column("ended_s", Float),
)
texts = Table(
    "texts",
    metadata,
    Column("request", Integer, ForeignKey("requests.id"), primary_key=True),
    Column("hash", String, primary_key=True),  # SHA-256 of question and answer: the ledger holds no texts
)
batches = Table(
    "batches",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("alias", String, nullable=False),
    Column("state", String, nullable=False),
    Column("owner", String, nullable=False),  # the runner that holds the lease
    Column("lease_until_s", Float, nullable=False),
    Column("claimed_s", Float, nullable=False),
    Column("base", String, nullable=False),  # the model that it starts from
    Column("model", String),  # folder of the unlearned model
    Column("promoted_s", Float),
)
aliases = Table(
    "aliases",
    metadata,
    Column("name", String, primary_key=True),
    Column("model", String, nullable=False),
    Column("batch", Integer, ForeignKey("batches.id")),  # the one that promoted it; null: the first model
)

_OPEN = text(f"state IN ('{RequestState.PENDING}', '{RequestState.RUNNING}')")
_UNDER_WAY = text("state NOT IN (" + ", ".join(f"'{state}'" for state in ENDED) + ")")
Index("one_open_request", requests.c.fingerprint, unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN)
Index("one_batch_under_way", batches.c.alias, unique=True, sqlite_where=_UNDER_WAY, postgresql_where=_UNDER_WAY)


def open_database(url: str) -> Engine:
    """`url`: a path (SQLite) or a database URL. Creates the tables where they are missing.

    Raises UserError for what is neither, for a database that does not answer, and for a file that is none.
    """
    try:
        # "postgresql://" without a driver means psycopg: the one that is installed with the project.
        parsed = make_url(url.replace("postgresql://", "postgresql+psycopg://", 1)) if "://" in url else None
    except ArgumentError as error:
        raise UserError(f"ledger: {url}: no database URL; give a path or postgresql://user@host/name") from error
    if parsed is not None and parsed.get_backend_name() != "postgresql":
        raise UserError(f"ledger: {url}: {parsed.get_backend_name()} is not supported; give a path or postgresql://...")
    try:
        engine = _sqlite(Path(url)) if parsed is None else create_engine(parsed, pool_pre_ping=True)
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SCHEMA_LOCK})
            metadata.create_all(connection)
    except (DatabaseError, OSError, ModuleNotFoundError) as error:  # the last: PostgreSQL's driver
        shown = url if parsed is None else parsed.render_as_string(hide_password=True)
        reason = " ".join(str(getattr(error, "orig", error)).split())
        raise UserError(f"ledger: {shown}: cannot be opened ({reason}); give a path or postgresql://...") from error
    return engine


def now_s(connection: Connection) -> float:
    """By the database's clock: runners on several machines need not agree on theirs."""
    clock = {
        "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
        "postgresql": "SELECT extract(epoch FROM clock_timestamp())",
    }[connection.dialect.name]
    return float(connection.execute(text(clock)).scalar_one())


def _sqlite(path: Path) -> Engine:
    """Every transaction takes the write lock when it begins: what it read is still so when it writes."""
    path = path.expanduser().absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def own_transactions(connection: "object", _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]  # the driver's own BEGIN would be deferred

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
