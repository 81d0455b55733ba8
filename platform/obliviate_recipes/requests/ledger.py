"""The ledger of deletion requests: who asked, which texts, when, and how far it has come.

Every method is one transaction. A runner holds a batch by a lease, which it renews while it works; once the lease has
run out, another runner takes the batch up where it stands. What a runner writes, it writes only while it still is the
owner, so that one that was paused and replaced changes nothing any more.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError

from obliviate.errors import UserError
from obliviate.runs import content_hash
from obliviate_recipes.requests.states import ENDED, NEXT, BatchState, RequestState
from obliviate_recipes.requests.tables import aliases, batches, now_s, open_database, requests, texts

OPEN = (RequestState.PENDING, RequestState.RUNNING)


class LeaseLostError(RuntimeError):
    """Another runner has taken the batch over: this one must stop."""


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


class Ledger:
    """`url`: the path of a SQLite file, or a PostgreSQL URL. Raises UserError where it can't be opened, and from every
    method where it does not answer any more."""

    def __init__(self, url: str) -> None:
        self._engine: Engine = open_database(url)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except OperationalError as error:
            reason = " ".join(str(error.orig).split())
            raise UserError(
                f"ledger: {self._engine.url.render_as_string()}: does not answer ({reason}); run the same command "
                "again once it does: it goes on where the ledger stands"
            ) from error

    def add(self, alias: str, first_model: str, requester: str, hashes: Collection[str]) -> int:
        """The new request's number. Texts that are forgotten already are left out of it.

        `first_model` is what the alias stands for from its first request to its first promotion.
        Raises UserError where the same requester waits for the same texts, where all are forgotten already, and where
        nobody asks.
        """
        if not requester.strip():
            raise UserError("request: --by is empty; give an id of who asks")
        if any("\ud800" <= letter <= "\udfff" for letter in requester):  # of bytes that are no UTF-8
            raise UserError(f"request: --by is {requester!r}, which is no text; give an id of who asks in UTF-8")
        with self._transaction() as connection:
            _insert_alias(connection, alias, first_model)
            _lock_alias(connection, alias)
            known = _forgotten(connection, alias)
            left = sorted(set(hashes) - set(known))
            if not left:
                by = sorted({known[each] for each in hashes})
                raise UserError(
                    f"request: all {len(set(hashes))} texts are forgotten already, by request "
                    f"{', '.join(map(str, by))}; `obliviate request status` shows its certificate"
                )
            fingerprint = content_hash([alias, requester, left])
            if (twin := _open_twin(connection, fingerprint)) is not None:
                raise UserError(
                    f"request: {requester} has asked for the same {len(left)} texts already, in request {twin}, "
                    "which is still open; `obliviate request status` shows how far it is"
                )
            values = {
                "alias": alias, "requester": requester, "received_s": now_s(connection), "fingerprint": fingerprint,
                "state": RequestState.PENDING, "alone": False,
            }  # fmt: skip
            number: int = connection.execute(insert(requests).values(values).returning(requests.c.id)).scalar_one()
            connection.execute(insert(texts), [{"request": number, "hash": each} for each in left])
        return number

    def requests(self, alias: str) -> list[Request]:
        with self._transaction() as connection:
            return _requests(connection, requests.c.alias == alias)

    def request(self, alias: str, number: int) -> Request:
        found = [each for each in self.requests(alias) if each.id == number]
        if not found:
            raise UserError(f"request {number}: there is none for {alias}; `obliviate request list` shows them all")
        return found[0]

    def retry(self, alias: str, number: int) -> None:
        """A failed request waits again: after a change of method or policy."""
        self.request(alias, number)  # that there is one
        with self._transaction() as connection:
            _lock_alias(connection, alias)
            row = connection.execute(select(requests).where(requests.c.id == number)).mappings().one()
            if row["state"] != RequestState.FAILED:
                raise UserError(f"request {number}: is {row['state']}; only a failed one can be tried again")
            if (twin := _open_twin(connection, row["fingerprint"])) is not None:
                raise UserError(
                    f"request {number}: {row['requester']} has asked for the same texts again since, in request "
                    f"{twin}, which is still open; wait for that one"
                )
            waiting = update(requests).where(requests.c.id == number)
            connection.execute(waiting.values(state=RequestState.PENDING, reason=None, ended_s=None, alone=True))

    def model_of(self, alias: str) -> str | None:
        """What the alias stands for by now; None before its first request."""
        with self._transaction() as connection:
            return connection.execute(select(aliases.c.model).where(aliases.c.name == alias)).scalar()

    def forgotten(self, alias: str) -> frozenset[str]:
        """Hashes of all texts of fulfilled requests."""
        with self._transaction() as connection:
            return frozenset(_forgotten(connection, alias))

    def claim(self, alias: str, owner: str, lease_s: float, *, due_after_s: float, most: int) -> Batch | None:
        """The batch that this runner is to work on, or None: nothing is due, or another runner is at work.

        A batch whose lease has run out comes first. A new one takes the oldest waiting requests, `most` of them, once
        the oldest has waited `due_after_s`; one that must be tried alone is a batch of its own.
        """
        with self._transaction() as connection:
            base = _lock_alias(connection, alias)
            if base is None:
                return None
            now = now_s(connection)
            under_way = connection.execute(
                select(batches).where(batches.c.alias == alias, batches.c.state.not_in(ENDED))
            ).mappings().first()  # fmt: skip
            lease = {"owner": owner, "lease_until_s": now + lease_s}
            if under_way is not None:
                if under_way["lease_until_s"] > now:
                    return None
                connection.execute(update(batches).where(batches.c.id == under_way["id"]).values(lease))
                return _batch(connection, under_way["id"])
            chosen = _due(connection, alias, now - due_after_s, most)
            if not chosen:
                return None
            values = {"alias": alias, "state": BatchState.CLAIMED, "claimed_s": now, "base": base, **lease}
            number: int = connection.execute(insert(batches).values(values).returning(batches.c.id)).scalar_one()
            running = update(requests).where(requests.c.id.in_(chosen))
            connection.execute(running.values(state=RequestState.RUNNING, batch=number))
            return _batch(connection, number)

    def renew(self, batch: int, owner: str, lease_s: float) -> None:
        """Raises LeaseLostError where another runner owns the batch, or it has ended."""
        with self._transaction() as connection:
            until = now_s(connection) + lease_s
            mine = update(batches).where(batches.c.id == batch, batches.c.owner == owner)
            if connection.execute(mine.where(batches.c.state.not_in(ENDED)).values(lease_until_s=until)).rowcount != 1:
                raise LeaseLostError(f"batch {batch}: another runner has taken it over")

    def release(self, batch: int, owner: str) -> None:
        """End the lease now, so that the next runner need not wait for it to run out."""
        with self._transaction() as connection:
            connection.execute(
                update(batches).where(batches.c.id == batch, batches.c.owner == owner).values(lease_until_s=0.0)
            )

    def advance(self, batch: Batch, owner: str, to: BatchState, **found: str) -> Batch:
        """The batch in its next state, with what the stage `found` (columns of `batches`)."""
        with self._transaction() as connection:
            _advance(connection, batch, owner, to, found)
            return _batch(connection, batch.id)

    def promote(self, batch: Batch, owner: str) -> Batch:
        """The alias is the batch's model from now on."""
        assert batch.model is not None
        with self._transaction() as connection:
            _lock_alias(connection, batch.alias)
            _advance(connection, batch, owner, BatchState.PROMOTED, {"promoted_s": now_s(connection)})
            promoted = update(aliases).where(aliases.c.name == batch.alias)
            connection.execute(promoted.values(model=batch.model, batch=batch.id))
            return _batch(connection, batch.id)

    def publish(self, batch: Batch, owner: str, write: Callable[[str], None]) -> None:
        """`write` the alias's model to where the server looks, while no other runner can promote another one.

        Raises LeaseLostError where another runner owns the batch: what it has promoted since is newer.
        """
        with self._transaction() as connection:
            model = _lock_alias(connection, batch.alias)
            mine = select(batches.c.id).where(batches.c.id == batch.id, batches.c.owner == owner)
            if model is None or connection.execute(mine).first() is None:
                raise LeaseLostError(f"batch {batch.id}: another runner has taken it over")
            write(model)

    def fulfil(self, batch: Batch, owner: str, certificates: dict[int, str]) -> Batch:
        """`certificates`: request -> path."""
        with self._transaction() as connection:
            _advance(connection, batch, owner, BatchState.FULFILLED, {})
            ended = {"state": RequestState.FULFILLED, "reason": None, "ended_s": now_s(connection)}
            for request in batch.requests:
                one = update(requests).where(requests.c.id == request.id)
                connection.execute(one.values(certificate=certificates[request.id], **ended))
            return _batch(connection, batch.id)

    def reject(self, batch: Batch, owner: str, reason: str) -> Batch:
        """A single request has failed. Several wait again, each to be tried alone: one of them may be at fault."""
        with self._transaction() as connection:
            _advance(connection, batch, owner, BatchState.REJECTED, {})
            several = len(batch.requests) > 1
            values: dict[str, Any] = {"reason": reason, "alone": several}
            if several:
                values["state"] = RequestState.PENDING
            else:
                values |= {"state": RequestState.FAILED, "ended_s": now_s(connection)}
            connection.execute(update(requests).where(requests.c.batch == batch.id).values(values))
            return _batch(connection, batch.id)


def _lock_alias(connection: Connection, alias: str) -> str | None:
    """The alias's model, held against every other transaction that concerns it until this one ends.

    None where there is no such alias. On SQLite the transaction itself is the lock.
    """
    return connection.execute(select(aliases.c.model).where(aliases.c.name == alias).with_for_update()).scalar()


def _insert_alias(connection: Connection, alias: str, model: str) -> None:
    """Unless it is there, or another transaction inserts it at this moment."""
    values = {"name": alias, "model": model}
    if connection.dialect.name == "postgresql":
        connection.execute(postgresql.insert(aliases).values(values).on_conflict_do_nothing())
    else:
        connection.execute(sqlite.insert(aliases).values(values).on_conflict_do_nothing())


def _open_twin(connection: Connection, fingerprint: str) -> int | None:
    """The request by the same requester about the same texts that has not ended."""
    same = select(requests.c.id).where(requests.c.fingerprint == fingerprint, requests.c.state.in_(OPEN))
    return connection.execute(same).scalar()


def _due(connection: Connection, alias: str, received_before_s: float, most: int) -> list[int]:
    waiting = (
        select(requests.c.id, requests.c.received_s, requests.c.alone)
        .where(requests.c.alias == alias, requests.c.state == RequestState.PENDING)
        .order_by(requests.c.received_s, requests.c.id)
        .with_for_update(skip_locked=True)
    )
    rows = connection.execute(waiting).all()
    if not rows or rows[0].received_s > received_before_s:
        return []
    if rows[0].alone:
        return [rows[0].id]
    return [row.id for row in rows if not row.alone][:most]


def _forgotten(connection: Connection, alias: str) -> dict[str, int]:
    """Hash -> the request that had it forgotten."""
    done = (
        select(texts.c.hash, texts.c.request)
        .join(requests, requests.c.id == texts.c.request)
        .where(requests.c.alias == alias, requests.c.state == RequestState.FULFILLED)
    )
    return {row.hash: row.request for row in connection.execute(done)}


def _advance(connection: Connection, batch: Batch, owner: str, to: BatchState, found: dict[str, Any]) -> None:
    assert to in NEXT[batch.state], f"no step leads from {batch.state} to {to}"
    mine = update(batches).where(batches.c.id == batch.id, batches.c.owner == owner, batches.c.state == batch.state)
    if connection.execute(mine.values(state=to, **found)).rowcount != 1:
        raise LeaseLostError(f"batch {batch.id}: another runner has taken it over")


def _batch(connection: Connection, number: int) -> Batch:
    row = connection.execute(select(batches).where(batches.c.id == number)).mappings().one()
    kept = {key: row[key] for key in ("id", "alias", "base", "claimed_s", "model", "promoted_s")}
    members = _requests(connection, requests.c.batch == number)
    return Batch(**kept, state=BatchState(row["state"]), requests=tuple(members))


def _requests(connection: Connection, which: ColumnElement[bool]) -> list[Request]:
    rows = connection.execute(select(requests).where(which).order_by(requests.c.id)).mappings().all()
    hashes: dict[int, list[str]] = {row["id"]: [] for row in rows}
    of_these: Select[Any] = select(texts).join(requests, requests.c.id == texts.c.request).where(which)
    for each in connection.execute(of_these.order_by(texts.c.hash)):
        hashes[each.request].append(each.hash)
    return [
        Request(
            **{key: value for key, value in row.items() if key not in {"state", "fingerprint"}},
            state=RequestState(row["state"]),
            hashes=tuple(hashes[row["id"]]),
        )
        for row in rows
    ]
