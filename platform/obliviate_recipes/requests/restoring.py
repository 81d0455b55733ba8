"""A ledger is restored from a backup, from the certificates of what it has met, or from both.

Certificates say which texts the served model has forgotten, which is what the next batch must know. Requests that
waited, or had failed, are in a backup alone.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from obliviate import storage
from obliviate.errors import UserError
from obliviate_recipes.requests.backup import restore
from obliviate_recipes.requests.certificate import FORMAT, Stated, ledger_of, verify
from obliviate_recipes.requests.database import count_on
from obliviate_recipes.requests.ledger import Ledger, fingerprint_of
from obliviate_recipes.requests.reading import OPEN, identity_of
from obliviate_recipes.requests.states import ENDED, BatchState, RequestState
from obliviate_recipes.requests.tables import aliases, batches, identity, requests, texts

BATCH_FOLDER = re.compile(r".+-(\d+)-(\d{8}T\d{6})")
NO_LEASE = {"owner": "", "lease_until_s": 0.0}


@dataclass(frozen=True)
class Certified:
    """What one certificate says. Those of before certificates named their ledger tell the batch by their folder."""

    path: Path
    request: int
    requester: str
    received_s: float
    hashes: tuple[str, ...]
    batch: int
    claimed_s: float
    promoted_s: float
    base: str
    model: str
    stated: Stated | None


def restore_ledger(
    ledger: Ledger, alias: str, backup: Path | None, certificates: Sequence[Path], keys: Collection[str]
) -> tuple[int, int]:
    """How many requests came from the `backup`, and how many more from the certificates of `alias`: files, or folders
    in which they lie. All, or nothing.

    `keys`: fingerprints of those that certificates may be signed with. Raises UserError.
    """
    certified = _read(certificates, alias, keys)
    with ledger.database.writing() as connection:
        restored = 0 if backup is None else restore(connection, backup)
        _check_identity(connection, certified)
        newest = max((each.batch for each in certified), default=0)
        count = 0
        for number, group in groupby(certified, lambda each: each.batch):
            count += _met(connection, alias, list(group), last=number == newest)
        count_on(connection)
    return restored, count


def _read(paths: Sequence[Path], alias: str, keys: Collection[str]) -> list[Certified]:
    """Of the alias, by batch and request."""
    found = []
    for path in paths:
        place = storage.fetch(storage.fetch_loose(storage.local(path)))
        files = [place] if place.is_file() else sorted(place.rglob("certificate-*.json"))
        if not files:
            raise UserError(f"{path}: holds no certificate-N.json; give the folder `requests` in that of the runs")
        for file in files:
            statement, signer = verify(file)
            if signer not in keys:
                raise UserError(f"{file}: was signed with the key {signer}, not with the config's; give --key")
            if statement["format"] != FORMAT:
                raise UserError(f"{file}: is the notice of a refusal, not a certificate; give certificate-N.json")
            if statement["model"]["alias"] == alias:
                found.append(_certified(file, statement))
    if paths and not found:
        raise UserError(f"{paths[0]}: holds no certificate of {alias}; give a folder that does")
    return sorted(found, key=lambda each: (each.batch, each.request))


def _certified(path: Path, statement: dict[str, Any]) -> Certified:
    asked, model, stated = statement["request"], statement["model"], ledger_of(path, statement)
    folder = BATCH_FOLDER.fullmatch(path.absolute().parent.name)
    if folder is None:
        raise UserError(f"{path}: its folder is not named ALIAS-BATCH-TIME, as that of its batch was; put it into one")
    return Certified(
        path, asked["id"], asked["requester"], _seconds(asked["received"]), tuple(asked["texts"]),
        int(folder[1]) if stated is None else stated.batch, _seconds(f"{folder[2]}+0000"),
        _seconds(statement["promoted"]), model["before"], model["after"], stated,
    )  # fmt: skip


def _check_identity(connection: Connection, certified: Iterable[Certified]) -> None:
    """An empty ledger becomes the one that made the certificates; any other one must be it."""
    named = {each.stated.ledger: each.path for each in certified if each.stated is not None}
    own = identity_of(connection)
    if connection.execute(select(func.count()).select_from(aliases)).scalar_one():
        named = {each: path for each, path in named.items() if each != own}
        if named:
            other, path = next(iter(named.items()))
            raise UserError(f"{path}: is of the ledger {other}, not of {own}; give certificates of the latter")
    elif len(named) > 1:
        first, second = list(named.values())[:2]
        raise UserError(f"{second}: is of another ledger than {first}; give certificates of one")
    elif named:
        connection.execute(update(identity).values(id=next(iter(named))))


def _met(connection: Connection, alias: str, group: Sequence[Certified], *, last: bool) -> int:
    """The batch has promoted its model and met these requests; how many of them were not known to be met.

    Its runner may have died between two certificates. Then the ledger must have the other requests, from a backup, and
    the batch, which can only be the `last`, is left for a run to certify them.
    """
    first = group[0]
    _set_batch(connection, alias, first)
    new = sum(_set_request(connection, alias, each) for each in group)
    of_batch = requests.c.batch == first.batch
    if first.stated is not None:
        of_batch |= (requests.c.alias == alias) & requests.c.id.in_(first.stated.requests)
    states = dict(connection.execute(select(requests.c.id, requests.c.state).where(of_batch)).tuples().all())
    unknown = [] if first.stated is None else [each for each in first.stated.requests if each not in states]
    left = [number for number, state in states.items() if state in OPEN]
    if unknown or (left and not last):
        raise UserError(
            f"{first.path}: its batch {first.batch} has met request {[*unknown, *left][0]} too; give that one's "
            "certificate" + (", or a backup that has the request" if last else "")
        )
    running = update(requests).where(requests.c.id.in_(left))
    connection.execute(running.values(state=RequestState.RUNNING, batch=first.batch))
    state = BatchState.PROMOTED if left else BatchState.FULFILLED
    connection.execute(update(batches).where(batches.c.id == first.batch).values(state=state, **NO_LEASE))
    return new


def _set_batch(connection: Connection, alias: str, met: Certified) -> None:
    _end_earlier(connection, alias, met.batch)
    known = connection.execute(select(batches).where(batches.c.id == met.batch)).mappings().first()
    values = {"base": met.base, "model": met.model, "promoted_s": met.promoted_s}
    if known is None:
        row = {"id": met.batch, "alias": alias, "claimed_s": met.claimed_s, "state": BatchState.FULFILLED}
        connection.execute(insert(batches).values(**row, **values, **NO_LEASE))
    elif known["alias"] != alias or known["base"] != met.base or (known["promoted_s"] and known["model"] != met.model):
        raise UserError(f"{met.path}: batch {met.batch} is another one in the ledger; give certificates of this ledger")
    elif known["promoted_s"] is None:
        connection.execute(update(batches).where(batches.c.id == met.batch).values(values))
    served = connection.execute(select(aliases).where(aliases.c.name == alias)).mappings().first()
    if served is None:
        connection.execute(insert(aliases).values(name=alias, model=met.model, batch=met.batch))
    elif (served["batch"] or 0) < met.batch:
        connection.execute(update(aliases).where(aliases.c.name == alias).values(model=met.model, batch=met.batch))


def _end_earlier(connection: Connection, alias: str, batch: int) -> None:
    """Batches that were under way when the backup was written, and ended before this one began: of those of their
    requests that were not met then, each waits to be tried alone."""
    under_way = (batches.c.alias == alias) & (batches.c.id < batch) & batches.c.state.not_in(ENDED)
    numbers = list(connection.execute(select(batches.c.id).where(under_way)).scalars())
    running = requests.c.batch.in_(numbers) & (requests.c.state == RequestState.RUNNING)
    connection.execute(update(requests).where(running).values(state=RequestState.PENDING, alone=True))
    ended = update(batches).where(batches.c.id.in_(numbers))
    connection.execute(ended.values(state=BatchState.REJECTED, **NO_LEASE))


def _set_request(connection: Connection, alias: str, met: Certified) -> bool:
    """Whether it was not known to be met."""
    known = connection.execute(select(requests).where(requests.c.id == met.request)).mappings().first()
    fingerprint = fingerprint_of(alias, met.requester, sorted(met.hashes))
    values = {
        "state": RequestState.FULFILLED, "batch": met.batch, "reason": None, "certificate": storage.name(met.path),
        "ended_s": met.promoted_s,
    }  # fmt: skip
    if known is None:
        row = {"id": met.request, "alias": alias, "requester": met.requester, "received_s": met.received_s}
        connection.execute(insert(requests).values(**row, **values, fingerprint=fingerprint, alone=False))
        connection.execute(insert(texts), [{"request": met.request, "hash": each} for each in met.hashes])
        return True
    if known["fingerprint"] != fingerprint:
        raise UserError(
            f"{met.path}: request {met.request} is another one in the ledger; give certificates of this ledger"
        )
    if known["state"] == RequestState.FULFILLED:
        return False
    connection.execute(update(requests).where(requests.c.id == met.request).values(values))
    return True


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).astimezone(UTC).timestamp()
