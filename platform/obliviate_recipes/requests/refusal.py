"""The notice of a refused request: a signed answer of its own, for whoever asked and for the issuer's files."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from obliviate import storage
from obliviate.runs import provenance
from obliviate_recipes.requests.certificate import REFUSAL, load_key, write_certificate
from obliviate_recipes.requests.reading import Request
from obliviate_recipes.requests.spec import RequestsRun
from obliviate_recipes.requests.timestamp import stamp

FOLDER = "refused"  # beside those of the batches


def write_refusal(config: RequestsRun, ledger: str, request: Request, reason: str, now_s: float) -> str:
    """`refusal-N.json` and its page below the runs; the first one's path. `ledger`: its identity."""
    folder = storage.local(config.runs).absolute() / "requests" / FOLDER
    statement = _statement(config, ledger, request, reason, now_s)
    key = load_key(Path(config.key))
    path = write_certificate(folder, f"refusal-{ledger[:8]}-{request.id}", statement, key, REFUSAL)
    stamp(path, config.certificates.timestamp)
    return storage.name(path)


def _statement(config: RequestsRun, ledger: str, request: Request, reason: str, now_s: float) -> dict[str, Any]:
    issued, extended = config.certificates, request.extended
    until = issued.due(request.received_s, extended=extended is not None)
    return {
        "request": {
            "id": request.id, "requester": request.requester,
            "received": time_of(request.received_s), "texts": list(request.hashes),
        },
        "refused": {"when": time_of(now_s), "reason": reason},
        "notice": {
            "number": f"{ledger[:8]}-{request.id}", "issuer": issued.issuer, "case": issued.case,
            "legal_basis": issued.legal_basis, "complaints": issued.complaints,
        },
        "clock": clock(request, until, now_s),
        "model": {"alias": request.alias},
        "ledger": {"ledger": ledger},
        "code": provenance(),
    }  # fmt: skip


def clock(request: Request, until: datetime, done_s: float) -> dict[str, Any]:
    """When a request was received, due and answered, and why it was due later than usual."""
    extended = request.extended
    return {
        "received": time_of(request.received_s), "due": until.isoformat(timespec="seconds"),
        "done": time_of(done_s), "in_time": done_s <= until.timestamp(),
        "extended": None if extended is None else {"when": time_of(extended.noted_s), "reason": extended.lines},
    }  # fmt: skip


def time_of(since_epoch_s: float) -> str:
    return datetime.fromtimestamp(since_epoch_s, UTC).isoformat(timespec="seconds")
