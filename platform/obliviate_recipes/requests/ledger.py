"""The ledger of deletion requests: who asked, which texts, when, and how far it has come.

Every method is one transaction. A runner holds a batch by a lease, which it renews while it works; once the lease has
run out, another runner takes the batch up where it stands. What a runner writes, it writes only while it still is the
owner, so that one that was paused and replaced changes nothing any more.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from obliviate.aliases import Mark
from obliviate.errors import UserError
from obliviate.runs import content_hash
from obliviate_recipes.requests.database import now_s
from obliviate_recipes.requests.reading import (
    Batch,
    Reading,
    Request,
    batch_of,
    forgotten_by,
    identity_of,
    met_by,
    requests_of,
)
from obliviate_recipes.requests.states import ENDED, NEXT, BatchState, NoteKind, RequestState
from obliviate_recipes.requests.tables import IS_OPEN, IS_UNDER_WAY, aliases, batches, notes, requests, texts


class LeaseLostError(RuntimeError):
    """Another runner has taken the batch over: this one must stop."""


class HeldError(RuntimeError):
    """Another runner is at work on the alias's batch."""

    def __init__(self, batch: int, until_s: float, left_s: float) -> None:
        until = datetime.fromtimestamp(until_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        super().__init__(f"batch {batch}: another runner is at work; unless it renews its lease, until {until}")
        self.left_s = left_s  # by the database's clock


@dataclass(frozen=True)
class Asked:
    """What somebody wants forgotten. Raises UserError where nobody asks."""

    requester: str
    hashes: Sequence[str]
    where: str = "request"  # it stands, for messages

    def __post_init__(self) -> None:
        if not self.requester.strip():
            raise UserError(f"{self.where}: the requester is empty; give an id of who asks")
        if any("\ud800" <= letter <= "\udfff" for letter in self.requester):  # of bytes that are no UTF-8
            raise UserError(
                f"{self.where}: the requester is {self.requester!r}, which is no text; give an id of who asks in UTF-8"
            )


class Ledger(Reading):
    """What changes the ledger, besides all that can be asked of it."""

    def add(self, alias: str, first_model: str, requester: str, hashes: Sequence[str]) -> int:
        """The new request's number; as `add_all`."""
        (number,) = self.add_all(alias, first_model, [Asked(requester, hashes)])
        return number

    def add_all(self, alias: str, first_model: str, asked: Sequence[Asked]) -> dict[int, int]:
        """The new requests' numbers -> how many texts: all are taken in, or none. Those that are forgotten already are
        left out of them.

        `first_model` is what the alias stands for from its first request to its first promotion.
        Raises UserError where the same requester waits for the same texts, and where all are forgotten already.
        """
        with self.database.writing() as connection:
            _insert_alias(connection, alias, first_model)
            _lock_alias(connection, alias)
            return dict(_add(connection, alias, each) for each in asked)

    def retry(self, alias: str, number: int) -> None:
        """A failed request waits again: after a change of method or policy."""
        self.request(alias, number)  # that there is one
        with self.database.writing() as connection:
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

    def extend(self, alias: str, number: int, reason: str, *, told_before_s: float) -> Request:
        """The request is answered later than usual, for a reason that its requester is told in time.

        Raises UserError for one that was answered or extended already, and after `told_before_s`.
        """
        with self._unanswered(alias, number) as (connection, request):
            if request.extended is not None:
                raise UserError(f"request {number}: was extended already, because: {request.extended.lines}")
            if now_s(connection) > told_before_s:
                day = datetime.fromtimestamp(told_before_s, UTC)
                raise UserError(f"request {number}: was due on {day:%Y-%m-%d}; an extension must be told before")
            _note(connection, number, NoteKind.EXTENDED, reason)
        return self.request(alias, number)

    def refuse(self, alias: str, number: int, reason: str, write: Callable[[Request, float], str]) -> str:
        """Nothing is unlearned for the request. `write` is given it and the time, and gives the notice's path, which is
        also what this gives. Raises UserError for one that was answered already, or is being unlearned."""
        with self._unanswered(alias, number) as (connection, request):
            if request.state is RequestState.RUNNING:
                raise UserError(f"request {number}: is being unlearned in batch {request.batch}; wait for its end")
            now = now_s(connection)
            notice = write(request, now)
            ended = {"state": RequestState.REFUSED, "reason": reason, "certificate": notice, "ended_s": now}
            connection.execute(update(requests).where(requests.c.id == number).values(ended))
        return notice

    def purged(self, number: int, names: Sequence[str]) -> None:
        """Note which files that held its texts are gone."""
        with self.database.writing() as connection:
            _note(connection, number, NoteKind.PURGED, "\n".join(names))

    @contextmanager
    def _unanswered(self, alias: str, number: int) -> Iterator[tuple[Connection, Request]]:
        self.request(alias, number)  # that there is one
        with self.database.writing() as connection:
            _lock_alias(connection, alias)
            (request,) = requests_of(connection, requests.c.id == number)
            if request.state in (RequestState.FULFILLED, RequestState.REFUSED):
                raise UserError(f"request {number}: is {request.state} already: {request.certificate}")
            yield connection, request

    def claim(self, alias: str, owner: str, lease_s: float, *, due_after_s: float, most: int) -> Batch | None:
        """The batch that this runner is to work on, or None: nothing is due.

        A batch whose lease has run out comes first. A new one takes the oldest waiting requests, `most` of them, once
        the oldest has waited `due_after_s`; one that must be tried alone is a batch of its own. Raises HeldError where
        another runner is at work.
        """
        with self.database.writing() as connection:
            base = _lock_alias(connection, alias)
            if base is None:
                return None
            now = now_s(connection)
            under_way = connection.execute(
                select(batches).where(batches.c.alias == alias, IS_UNDER_WAY)
            ).mappings().first()  # fmt: skip
            lease = {"owner": owner, "lease_until_s": now + lease_s}
            if under_way is not None:
                if (until := under_way["lease_until_s"]) > now:
                    raise HeldError(under_way["id"], until, until - now)
                connection.execute(update(batches).where(batches.c.id == under_way["id"]).values(lease))
                return batch_of(connection, under_way["id"])
            chosen = _due(connection, alias, now, due_after_s, most)
            if not chosen:
                return None
            values = {"alias": alias, "state": BatchState.CLAIMED, "claimed_s": now, "base": base, **lease}
            number: int = connection.execute(insert(batches).values(values).returning(batches.c.id)).scalar_one()
            running = update(requests).where(requests.c.id.in_(chosen))
            connection.execute(running.values(state=RequestState.RUNNING, batch=number))
            return batch_of(connection, number)

    def renew(self, batch: int, owner: str, lease_s: float) -> None:
        """Raises LeaseLostError where another runner owns the batch, or it has ended."""
        with self.database.writing() as connection:
            until = now_s(connection) + lease_s
            mine = update(batches).where(batches.c.id == batch, batches.c.owner == owner)
            if connection.execute(mine.where(batches.c.state.not_in(ENDED)).values(lease_until_s=until)).rowcount != 1:
                raise LeaseLostError(f"batch {batch}: another runner has taken it over")

    def release(self, batch: int, owner: str) -> None:
        """End the lease now, so that the next runner need not wait for it to run out."""
        with self.database.writing() as connection:
            connection.execute(
                update(batches).where(batches.c.id == batch, batches.c.owner == owner).values(lease_until_s=0.0)
            )

    def advance(self, batch: Batch, owner: str, to: BatchState, **found: str) -> Batch:
        """The batch in its next state, with what the stage `found` (columns of `batches`)."""
        with self.database.writing() as connection:
            _advance(connection, batch, owner, to, found)
            return batch_of(connection, batch.id)

    def promote(self, batch: Batch, owner: str) -> Batch:
        """The alias is the batch's model from now on."""
        assert batch.model is not None
        with self.database.writing() as connection:
            _lock_alias(connection, batch.alias)
            _advance(connection, batch, owner, BatchState.PROMOTED, {"promoted_s": now_s(connection)})
            promoted = update(aliases).where(aliases.c.name == batch.alias)
            connection.execute(promoted.values(model=batch.model, batch=batch.id))
            return batch_of(connection, batch.id)

    def publish(self, batch: Batch, owner: str, write: Callable[[Mark], None]) -> Mark:
        """`write` the alias's model to where the server looks, while no other runner can promote another one.

        Raises LeaseLostError where another runner owns the batch: what it has promoted since is newer.
        """
        with self.database.writing() as connection:
            model = _lock_alias(connection, batch.alias)
            mine = select(batches.c.id).where(batches.c.id == batch.id, batches.c.owner == owner)
            if model is None or connection.execute(mine).first() is None:
                raise LeaseLostError(f"batch {batch.id}: another runner has taken it over")
            known, met = identity_of(connection), met_by(connection, batch.alias)
            mark = Mark(ledger=known, path=self.name, batch=batch.id, model=model, met=met)
            write(mark)
            return mark

    def fulfil(self, batch: Batch, owner: str, certificates: dict[int, str]) -> Batch:
        """`certificates`: request -> path."""
        with self.database.writing() as connection:
            _advance(connection, batch, owner, BatchState.FULFILLED, {})
            ended = {"state": RequestState.FULFILLED, "reason": None, "ended_s": now_s(connection)}
            for request in batch.requests:
                one = update(requests).where(requests.c.id == request.id)
                connection.execute(one.values(certificate=certificates[request.id], **ended))
            return batch_of(connection, batch.id)

    def reject(self, batch: Batch, owner: str, reason: str) -> Batch:
        """A single request has failed. Several wait again, each to be tried alone: one of them may be at fault."""
        with self.database.writing() as connection:
            _advance(connection, batch, owner, BatchState.REJECTED, {})
            several = len(batch.requests) > 1
            values: dict[str, Any] = {"reason": reason, "alone": several}
            if several:
                values["state"] = RequestState.PENDING
            else:
                values |= {"state": RequestState.FAILED, "ended_s": now_s(connection)}
            connection.execute(update(requests).where(requests.c.batch == batch.id).values(values))
            return batch_of(connection, batch.id)


def _note(connection: Connection, number: int, kind: NoteKind, lines: str) -> None:
    values = {"request": number, "kind": kind, "noted_s": now_s(connection), "lines": lines}
    connection.execute(insert(notes).values(values))


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


def _add(connection: Connection, alias: str, asked: Asked) -> tuple[int, int]:
    known = forgotten_by(connection, alias, asked.hashes)
    left = sorted(set(asked.hashes) - set(known))
    if not left:
        by = sorted({known[each] for each in asked.hashes})
        raise UserError(
            f"{asked.where}: all {len(set(asked.hashes))} texts are forgotten already, by request "
            f"{', '.join(map(str, by))}; `obliviate request status` shows its certificate"
        )
    fingerprint = fingerprint_of(alias, asked.requester, left)
    if (twin := _open_twin(connection, fingerprint)) is not None:
        raise UserError(
            f"{asked.where}: {asked.requester} has asked for the same {len(left)} texts already, in request {twin}, "
            "which is still open; `obliviate request status` shows how far it is"
        )
    values = {
        "alias": alias, "requester": asked.requester, "received_s": now_s(connection), "fingerprint": fingerprint,
        "state": RequestState.PENDING, "alone": False,
    }  # fmt: skip
    number: int = connection.execute(insert(requests).values(values).returning(requests.c.id)).scalar_one()
    connection.execute(insert(texts), [{"request": number, "hash": each} for each in left])
    return number, len(left)


def fingerprint_of(alias: str, requester: str, hashes: Sequence[str]) -> str:
    """Equal of two requests that ask for the same. `hashes`: sorted."""
    return content_hash([alias, requester, list(hashes)])


def _open_twin(connection: Connection, fingerprint: str) -> int | None:
    """The request by the same requester about the same texts that has not ended."""
    same = select(requests.c.id).where(requests.c.fingerprint == fingerprint, IS_OPEN)
    return connection.execute(same).scalar()


def _due(connection: Connection, alias: str, now: float, due_after_s: float, most: int) -> list[int]:
    """A request of the future is due: the clock has been set back since it came."""
    waiting = (
        select(requests.c.id, requests.c.received_s, requests.c.alone)
        .where(requests.c.alias == alias, requests.c.state == RequestState.PENDING)
        .order_by(requests.c.id)  # in which they came
        .with_for_update(skip_locked=True)
    )
    oldest = connection.execute(waiting.limit(1)).first()
    if oldest is None or 0 <= now - oldest.received_s < due_after_s:
        return []
    if oldest.alone:
        return [oldest.id]
    return [row.id for row in connection.execute(waiting.where(requests.c.alone.is_(False)).limit(most))]


def _advance(connection: Connection, batch: Batch, owner: str, to: BatchState, found: dict[str, Any]) -> None:
    assert to in NEXT[batch.state], f"no step leads from {batch.state} to {to}"
    mine = update(batches).where(batches.c.id == batch.id, batches.c.owner == owner, batches.c.state == batch.state)
    if connection.execute(mine.values(state=to, **found)).rowcount != 1:
        raise LeaseLostError(f"batch {batch.id}: another runner has taken it over")
