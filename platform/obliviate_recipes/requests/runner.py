"""Working off the ledger: batch after batch, each from where it stands to its end.

Every step may be killed at any point and is done again from its beginning: what it wrote is written whole, what it
computed is found again by its content, and the ledger moves on only when it is done.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any, TypeVar

from obliviate import storage
from obliviate.aliases import Mark, set_alias
from obliviate.data.rows import Row, read_rows, write_rows
from obliviate.digests import sealed, unsealed
from obliviate.errors import REFUSALS, UserError
from obliviate.runs import content_hash, provenance, write_json
from obliviate.schema import Spec
from obliviate_recipes.events import Events
from obliviate_recipes.requests.certificate import load_key, write_certificate
from obliviate_recipes.requests.findings import asked_in, findings
from obliviate_recipes.requests.knowledge import Knowledge, text_hash
from obliviate_recipes.requests.lease import Lease
from obliviate_recipes.requests.ledger import HeldError, Ledger
from obliviate_recipes.requests.lineage import Runs, that_know
from obliviate_recipes.requests.measurement import Measurement
from obliviate_recipes.requests.policy import Policy
from obliviate_recipes.requests.reading import Batch, Request
from obliviate_recipes.requests.refusal import clock, time_of
from obliviate_recipes.requests.spec import RequestsRun
from obliviate_recipes.requests.states import ENDED, BatchState
from obliviate_recipes.requests.timestamp import stamp

if TYPE_CHECKING:
    from obliviate_recipes.requests.work import Work

BEFORE, AFTER, POLICY = "before.json", "after.json", "policy.json"
FORGET, RETAIN = "forget.jsonl", "retain.jsonl"
WAIT_S = 5.0  # between two looks at a batch that another runner holds: that one may be done before its lease ends
S = TypeVar("S", bound=Spec)


@dataclass
class Runner:
    config: RequestsRun
    ledger: Ledger
    knowledge: Knowledge
    work: "Work"
    events: Events
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)

    def run(self, *, wait: bool = False) -> int:
        """Work until nothing is due; how many batches have ended.

        Raises HeldError where another runner is at work, unless this one is to `wait` for it, LeaseLostError where
        another runner took this one for dead, and UserError for what the user can mend; the batch then stays where it
        stands, for the next run.
        """
        ended = 0
        while (batch := self._claim(wait=wait)) is not None:
            numbers = ", ".join(str(request.id) for request in batch.requests)
            self.events.said(f"batch {batch.id} ({batch.state}): request {numbers}, from {batch.base}")
            storage.fetch_loose(self.folder(batch))  # another node may have begun it
            with Lease(self.ledger, batch.id, self.owner, self.config.lease_s) as lease:
                while batch.state not in ENDED:
                    lease.check()
                    with _written(batch):
                        batch = STEPS[batch.state](self, batch)
                    self.events.said(f"batch {batch.id}: {batch.state}")
            ended += 1
        return ended

    def folder(self, batch: Batch) -> Path:
        """Its texts, measurements and certificates. The time keeps ledgers that share `runs` apart."""
        claimed = datetime.fromtimestamp(batch.claimed_s, UTC).strftime("%Y%m%dT%H%M%S")
        return storage.local(self.config.runs).absolute() / "requests" / f"{self.config.alias}-{batch.id}-{claimed}"

    def _claim(self, *, wait: bool) -> Batch | None:
        config, told = self.config, False
        while True:
            try:
                return self.ledger.claim(
                    config.alias, self.owner, config.lease_s,
                    due_after_s=config.due_after_hours * 3600, most=config.batch_requests,
                )  # fmt: skip
            except HeldError as held:
                if not wait:
                    raise
                if not told:
                    self.events.said(f"{held}; waiting for it")
                told = True
                sleep(min(held.left_s, WAIT_S))

    def baseline(self, batch: Batch) -> Batch:
        """Write the texts down, and measure the model that is served.

        Texts that another request has had forgotten since this one was taken in are not forgotten again.
        """
        self._write_down(batch)
        self._measure(batch, "before", batch.base, self.folder(batch) / BEFORE)
        return self.ledger.advance(batch, self.owner, BatchState.BASELINE)

    def unlearn(self, batch: Batch) -> Batch:
        folder, gone = self.folder(batch), self._forgotten(batch)
        model = batch.base
        if not all(gone.issuperset(request.hashes) for request in batch.requests):
            forget, retain = _present(folder / FORGET), folder / RETAIN
            self._write_down(batch)  # what a disk has changed since: nothing else may be unlearned
            model = self.work.unlearn(batch.base, forget, retain if retain.exists() else None)
        return self.ledger.advance(batch, self.owner, BatchState.UNLEARNED, model=model)

    def measure(self, batch: Batch) -> Batch:
        """Both models: the first one's figures are at hand, unless the config has another `evaluation` by now."""
        self._measure_both(batch)
        return self.ledger.advance(batch, self.owner, BatchState.MEASURED)

    def judge(self, batch: Batch) -> Batch:
        folder, gone = self.folder(batch), self._forgotten(batch)
        before, after = self._measured(batch)
        known = {request.id: not gone.issuperset(request.hashes) for request in batch.requests}
        found = self.config.policy.violations(known, before, after)
        if not found:
            write_json(folder / POLICY, sealed(self.config.policy.model_dump(mode="json", exclude_none=True)))
            return self.ledger.promote(batch, self.owner)
        for line in found:
            self.events.warned(f"batch {batch.id}: policy not met: {line}")
        return self.ledger.reject(batch, self.owner, "; ".join(found))

    def conclude(self, batch: Batch) -> Batch:
        """Let the server follow, certify, and only then say that the requests are fulfilled."""
        assert batch.model is not None
        path = Path(self.config.aliases)
        mark = self.ledger.publish(
            batch, self.owner, lambda mark: set_alias(path, self.config.alias, mark.model, mark=mark)
        )
        key = load_key(Path(self.config.key))
        self._write_down(batch)  # certificates tell by their hash what was unlearned
        folder, weights = self.folder(batch), self.work.weights(batch.model)
        certificates = {}
        for request in batch.requests:
            statement = self._statement(batch, request, weights, mark)
            path = write_certificate(folder, f"certificate-{request.id}", statement, key)
            stamp(path, self.config.certificates.timestamp)
            certificates[request.id] = storage.name(path)
            self.events.said(f"certificate of request {request.id}: {certificates[request.id]}")
        return self.ledger.fulfil(batch, self.owner, certificates)

    def _write_down(self, batch: Batch) -> None:
        """The texts of the batch and of its requests, and what is to be kept, where they do not lie there unchanged."""
        folder, own = self.folder(batch), {each for request in batch.requests for each in request.hashes}
        gone = self._forgotten(batch)
        texts = {_texts_of(folder, request.id): self.knowledge.select(request.hashes) for request in batch.requests}
        texts[folder / FORGET] = self.knowledge.select(sorted(own - gone))
        texts[folder / RETAIN] = self.knowledge.without(own | gone)
        for path, rows in texts.items():
            if rows and not _holds(path, rows):
                write_rows(path, rows)

    def _forgotten(self, batch: Batch) -> frozenset[str]:
        """Of the texts that are in the data or in the batch, those of fulfilled requests."""
        asked = {each for request in batch.requests for each in request.hashes}
        return self.ledger.forgotten(batch.alias, self.knowledge.rows.keys() | asked)

    def _measure_both(self, batch: Batch) -> None:
        assert batch.model is not None
        folder = self.folder(batch)
        self._measure(batch, "before", batch.base, folder / BEFORE)
        self._measure(batch, "after", batch.model, folder / AFTER)
        if self.config.attacks and (folder / FORGET).exists():
            self._attack(batch, batch.model, folder)

    def _measured(self, batch: Batch) -> tuple[Measurement, Measurement]:
        """Before and after; what a disk has lost or damaged since is measured again."""
        before, after = (self.folder(batch) / name for name in (BEFORE, AFTER))
        if before.parent.exists() and not (_is_whole(before) and _is_whole(after)):
            self._measure_both(batch)
        return _read(before, Measurement), _read(after, Measurement)

    def _measure(self, batch: Batch, when: str, model: str, path: Path) -> None:
        """On the texts of the batch, those of earlier requests that are still at hand, and what is to be kept."""
        requests = {request.id: self.knowledge.select(request.hashes) for request in batch.requests}
        if self.config.policy.recheck:
            requests = self._earlier() | requests
        gone = self._forgotten(batch) | {each for request in batch.requests for each in request.hashes}
        kept = self.knowledge.kept_without(gone)
        measured = self.work.measure(f"batch-{batch.id}-{when}", model, requests, kept)
        write_json(path, sealed(measured.model_dump(mode="json")))

    def _attack(self, batch: Batch, model: str, folder: Path) -> None:
        """Add to what is measured of the new model what attacks bring back of the batch's texts."""
        retain = folder / RETAIN
        gone = self._forgotten(batch) | {each for request in batch.requests for each in request.hashes}
        attacks = self.work.attack(
            f"batch-{batch.id}", model, batch.base, read_rows(folder / FORGET), retain if retain.exists() else None,
            self.knowledge.kept_without(gone),
        )  # fmt: skip
        measured = _read(folder / AFTER, Measurement).model_copy(update={"attacks": attacks})
        write_json(folder / AFTER, sealed(measured.model_dump(mode="json")))

    def _earlier(self) -> dict[int, tuple[Row, ...]]:
        """The texts of fulfilled requests, from the folders of their batches; without those that were deleted there."""
        paths = {
            number: _texts_of(storage.local(certificate).parent, number)
            for number, certificate in self.ledger.certificates(self.config.alias).items()
        }
        left = {number: path for number, path in paths.items() if not storage.is_removed(path)}
        there = {number: path for number, path in left.items() if storage.fetch(path).exists()}
        return {number: rows for number, path in there.items() if (rows := self._as_forgotten(number, path))}

    def _as_forgotten(self, number: int, path: Path) -> tuple[Row, ...]:
        """A request's texts by their copy; none, with a warning, where it does not hold what was forgotten."""
        try:
            rows = read_rows(path)
        except UserError:
            rows = ()
        hashes = {text_hash(row) for row in rows}
        if rows and self.ledger.forgotten(self.config.alias, hashes) == hashes:
            return rows
        self.events.warned(f"request {number}: is not measured again: {path} is damaged; restore it from a backup")
        return ()

    def _statement(self, batch: Batch, request: Request, weights: str, mark: Mark) -> dict[str, Any]:
        """By which config the model was made, and by which policy it was judged, is on disk: the config of this run may
        be another one by now."""
        assert batch.promoted_s is not None
        assert batch.model is not None
        folder, made, issued = self.folder(batch), self.work.recipe(batch.model), self.config.certificates
        until = issued.due(request.received_s, extended=request.extended is not None)
        before, after = self.ledger.models_before(request)
        retention, runs = self.config.retention, Runs.read(storage.local(self.config.runs).absolute())
        measured = dict(zip(("before", "after"), self._measured(batch), strict=True))
        policy = _read(folder / POLICY, Policy)
        rows = [each for each in request.hashes if each in self.knowledge.rows]
        hashes = [[row.key for row in read_rows(path)] for name in (FORGET, RETAIN) if (path := folder / name).exists()]
        return {
            "request": {
                "id": request.id, "requester": request.requester,
                "received": time_of(request.received_s), "texts": list(request.hashes),
            },
            "promoted": time_of(batch.promoted_s),
            "certificate": {
                "number": f"{mark.ledger[:8]}-{request.id}", "issued": time_of(batch.promoted_s),
                "issuer": issued.issuer, "case": issued.case, "legal_basis": issued.legal_basis,
            },
            "clock": clock(request, until, batch.promoted_s),
            "found": {"texts": len(request.hashes), "in_data": len(rows)},
            "findings": findings(request.id, measured["before"], measured["after"], policy),
            "ledger": {**mark.model_dump(), "requests": [each.id for each in batch.requests]},
            "model": {"alias": batch.alias, "before": batch.base, "after": batch.model},
            "left": {
                "models": [storage.name(runs.root / name) for name in that_know(runs, before, after)],
                "models_go": retention.old_models, "texts": storage.name(folder), "days": retention.days,
            },
            "asked": asked_in(self.config, [self.knowledge.rows[each] for each in rows]),
            "method": {
                "label": made.label, "terms": [term.model_dump(mode="json") for term in made.terms],
                "optim": made.optim.model_dump(mode="json"), "seed": made.seed,
            },
            "hashes": {
                "config": content_hash(made.model_dump(mode="json")), "data": content_hash(hashes), "model": weights,
            },
            "attacks": {
                "tried": [attack.model_dump(mode="json") for attack in self.config.attacks],
                "control": "none" if self.config.retain_model is None else "retain",
                "utility_drop": self.config.budget.utility_drop,
            },
            "policy": policy.model_dump(mode="json", exclude_none=True),
            "measurements": {
                when: {
                    "forgotten": each["requests"][str(request.id)], "kept": each["kept"], "run": each["evaluation"],
                    "attacks": each["attacks"],
                }
                for when, each in ((when, found.model_dump(mode="json")) for when, found in measured.items())
            },
            "code": provenance(),
        }  # fmt: skip


STEPS: dict[BatchState, Callable[[Runner, Batch], Batch]] = {
    BatchState.CLAIMED: Runner.baseline,
    BatchState.BASELINE: Runner.unlearn,
    BatchState.UNLEARNED: Runner.measure,
    BatchState.MEASURED: Runner.judge,
    BatchState.PROMOTED: Runner.conclude,
}


@contextmanager
def _written(batch: Batch) -> Iterator[None]:
    """What a disk refuses is no fault of ours: one line, and the batch stays where it stands."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise UserError(
            f"runs: {error.filename or 'a file'}: cannot be written ({error.strerror}); batch {batch.id} stays "
            f"{batch.state}: mend it and run the same command again"
        ) from error


def _texts_of(folder: Path, request: int) -> Path:
    return folder / f"request-{request}.jsonl"


def _holds(path: Path, rows: Sequence[Row]) -> bool:
    try:
        return path.exists() and list(read_rows(path)) == list(rows)
    except UserError:
        return False


def _is_whole(path: Path) -> bool:
    try:
        unsealed(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return True


def _read(path: Path, kind: type[S]) -> S:
    """Raises UserError where it is missing or damaged."""
    try:
        return kind.model_validate(unsealed(_present(path).read_bytes()))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"runs: {path}: is damaged ({str(error).splitlines()[0]}); restore it from a backup") from error


def _present(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"runs: {path} is missing; give the folder of runs that the batch was begun in")
    return path
