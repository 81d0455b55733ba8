"""A runner's hold on its batch, renewed from a thread while a stage works."""

import threading
from types import TracebackType

from obliviate.errors import UserError
from obliviate_recipes.requests.ledger import LeaseLostError, Ledger

RENEWALS = 3  # in the time of a lease: two may fail before another runner takes the batch up


class Lease:
    """Entered, it is renewed `every_s`; left, it is given back, so that the next runner need not wait for its end."""

    def __init__(self, ledger: Ledger, batch: int, owner: str, lease_s: float, *, every_s: float | None = None) -> None:
        self._ledger, self._batch, self._owner, self._lease_s = ledger, batch, owner, lease_s
        self._every_s = lease_s / RENEWALS if every_s is None else every_s
        self._stop = threading.Event()
        self._lost: LeaseLostError | None = None
        self.thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "Lease":
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self.thread.join()
        self._ledger.release(self._batch, self._owner)

    def check(self) -> None:
        """Raises LeaseLostError where another runner has taken the batch over."""
        if self._lost is not None:
            raise self._lost

    def _renew(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self._ledger.renew(self._batch, self._owner, self._lease_s)
            except LeaseLostError as error:
                self._lost = error
                return
            except UserError:  # the database does not answer: the lease holds for a while, and it may come back
                continue
