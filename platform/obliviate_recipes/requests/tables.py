"""The ledger's tables.

Two indexes say what must never be, whatever the program does: two open requests by one requester about the same texts,
and two batches under way for one alias (each starts from the model that the last one promoted).
"""

from sqlalchemy import Boolean, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, text

from obliviate_recipes.requests.states import ENDED, RequestState

VERSION = 3  # of the tables: 1 had no identity, and no indexes but those that must be unique; 2 had no notes

metadata = MetaData()

identity = Table(  # one row
    "ledger_identity",
    metadata,
    Column("id", String, primary_key=True),  # random; stays the same in every copy
    Column("version", Integer, nullable=False),
    Column("made_s", Float, nullable=False),
)
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
    Column("reason", String),  # why the policy was not met, or why it was refused
    Column("certificate", String),  # path of the JSON file; of a refused one, of the notice
    Column("ended_s", Float),
)
texts = Table(
    "texts",
    metadata,
    Column("request", Integer, ForeignKey("requests.id"), primary_key=True),
    Column("hash", String, primary_key=True),  # SHA-256 of question and answer: the ledger holds no texts
)
notes = Table(
    "request_notes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("request", Integer, ForeignKey("requests.id"), nullable=False),
    Column("kind", String, nullable=False),
    Column("noted_s", Float, nullable=False),
    Column("lines", String, nullable=False),
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

# In these very words a query can use the index: with parameters the database cannot tell that it may.
IS_OPEN = text(f"state IN ('{RequestState.PENDING}', '{RequestState.RUNNING}')")
IS_UNDER_WAY = text("state NOT IN (" + ", ".join(f"'{state}'" for state in ENDED) + ")")
Index("one_open_request", requests.c.fingerprint, unique=True, sqlite_where=IS_OPEN, postgresql_where=IS_OPEN)
Index("one_batch_under_way", batches.c.alias, unique=True, sqlite_where=IS_UNDER_WAY, postgresql_where=IS_UNDER_WAY)
Index("requests_by_alias", requests.c.alias, requests.c.id)
Index("requests_by_state", requests.c.alias, requests.c.state, requests.c.id)
Index("requests_by_batch", requests.c.batch)
Index("notes_by_request", notes.c.request, notes.c.id)
Index("texts_by_hash", texts.c.hash, texts.c.request)
