"""A ledger as the version before made it: without an identity, and with no indexes but the two that must be unique."""

from sqlalchemy import Connection

from obliviate_recipes.requests.knowledge import text_hash
from requests_world import ROWS

TABLES = """
CREATE TABLE batches (id {number}, alias VARCHAR NOT NULL, state VARCHAR NOT NULL, owner VARCHAR NOT NULL,
    lease_until_s FLOAT NOT NULL, claimed_s FLOAT NOT NULL, base VARCHAR NOT NULL, model VARCHAR, promoted_s FLOAT,
    PRIMARY KEY (id));
CREATE UNIQUE INDEX one_batch_under_way ON batches (alias) WHERE state NOT IN ('fulfilled', 'rejected');
CREATE TABLE aliases (name VARCHAR NOT NULL, model VARCHAR NOT NULL, batch INTEGER, PRIMARY KEY (name),
    FOREIGN KEY(batch) REFERENCES batches (id));
CREATE TABLE requests (id {number}, alias VARCHAR NOT NULL, requester VARCHAR NOT NULL, received_s FLOAT NOT NULL,
    fingerprint VARCHAR NOT NULL, state VARCHAR NOT NULL, alone BOOLEAN NOT NULL, batch INTEGER, reason VARCHAR,
    certificate VARCHAR, ended_s FLOAT, PRIMARY KEY (id), FOREIGN KEY(batch) REFERENCES batches (id));
CREATE UNIQUE INDEX one_open_request ON requests (fingerprint) WHERE state IN ('pending', 'running');
CREATE TABLE texts (request INTEGER NOT NULL, hash VARCHAR NOT NULL, PRIMARY KEY (request, hash),
    FOREIGN KEY(request) REFERENCES requests (id))
"""
ROWS_OF = f"""
INSERT INTO batches (alias, state, owner, lease_until_s, claimed_s, base, model, promoted_s)
    VALUES ('production', 'fulfilled', 'gone', 0, 100, 'base', '{{model}}', 200);
INSERT INTO aliases VALUES ('production', '{{model}}', 1);
INSERT INTO requests (alias, requester, received_s, fingerprint, state, alone, batch, ended_s)
    VALUES ('production', 'ann', 50, 'a', 'fulfilled', {{no}}, 1, 200);
INSERT INTO requests (alias, requester, received_s, fingerprint, state, alone)
    VALUES ('production', 'bob', 60, 'b', 'pending', {{no}});
INSERT INTO texts VALUES (1, '{text_hash(ROWS[0])}');
INSERT INTO texts VALUES (2, '{text_hash(ROWS[1])}')
"""


def make(connection: Connection, model: str) -> None:
    """Request 1 was met, by `model`; request 2 waits."""
    postgres = connection.dialect.name == "postgresql"
    number, no = ("SERIAL", "false") if postgres else ("INTEGER NOT NULL", "0")
    for statement in (TABLES + ";" + ROWS_OF).format(number=number, model=model, no=no).split(";"):
        connection.exec_driver_sql(statement)
