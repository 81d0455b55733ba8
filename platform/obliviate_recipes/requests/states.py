"""The states of a request and of a batch, and every step from one to another that there is."""

from enum import StrEnum


class RequestState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"  # in a batch that is under way
    FULFILLED = "fulfilled"  # forgotten, certified, and served
    FAILED = "failed"  # the policy was not met; the model stayed as it was
    REFUSED = "refused"  # by a person, who says why: nothing is unlearned


class NoteKind(StrEnum):
    """What is noted of a request beside its state."""

    EXTENDED = "extended"  # it is answered later than usual; why
    PURGED = "purged"  # files that held its texts are gone; their names


class BatchState(StrEnum):
    """What is done already. A batch that is taken up again goes on from here."""

    CLAIMED = "claimed"  # its requests are no other runner's
    BASELINE = "baseline"  # the served model has been measured
    UNLEARNED = "unlearned"
    MEASURED = "measured"  # and so has the new one
    PROMOTED = "promoted"  # the policy is met, and the ledger's alias is the new model
    FULFILLED = "fulfilled"  # the alias file is written, the certificates are, and the requests say so
    REJECTED = "rejected"  # the policy is not met: alias and model stay


ENDED = (BatchState.FULFILLED, BatchState.REJECTED)
NEXT: dict[BatchState, frozenset[BatchState]] = {
    BatchState.CLAIMED: frozenset({BatchState.BASELINE}),
    BatchState.BASELINE: frozenset({BatchState.UNLEARNED}),
    BatchState.UNLEARNED: frozenset({BatchState.MEASURED}),
    BatchState.MEASURED: frozenset({BatchState.PROMOTED, BatchState.REJECTED}),
    BatchState.PROMOTED: frozenset({BatchState.FULFILLED}),
    BatchState.FULFILLED: frozenset(),
    BatchState.REJECTED: frozenset(),
}
