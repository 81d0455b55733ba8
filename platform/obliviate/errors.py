"""The one error a user can mend. The command line prints it on one line and exits with code 2, without a traceback."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Of a disk that is full, over a quota, read-only or somebody else's: no fault of ours
REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


class UserError(ValueError):
    """What was wrong, where (file, key, value), and what to do about it, in one line."""


class DivergedError(UserError):
    """Training has left the numbers: of the same config nothing else will come, however often it is run."""


@contextmanager
def under(key: str) -> Iterator[None]:
    """Errors of what is read name the config's key too."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{key}: {error}") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What a disk refuses names what was being written: once a file is open, it does not by itself."""
    try:
        yield
    except OSError as error:
        if error.errno in REFUSALS:
            error.filename = error.filename or str(path)
        raise
