"""What goes wrong at the gateway, kept until `obliviate serve` has printed it, with the request that met it.

The gateway is a process of the cluster: what it logs lies among Ray's own files, wherever that runs.
"""

import logging
from collections import deque
from contextvars import ContextVar

KEPT = 1000  # lines that nobody has fetched; the oldest give way
LONG = 2000  # characters of a line

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)  # of the HTTP request under way


class Trouble(logging.Handler):
    """The package's warnings and errors, a line each; tracebacks are in the log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: deque[str] = deque(maxlen=KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if record.exc_info is not None and (error := record.exc_info[1]) is not None:
            line += f": {type(error).__name__}: {error}"
        asked = request_id.get()
        self._lines.append(" ".join(line[:LONG].split()) + ("" if asked is None else f" (request {asked})"))

    def take(self) -> list[str]:
        """Those that are new since the last time."""
        lines = list(self._lines)
        self._lines.clear()
        return lines
