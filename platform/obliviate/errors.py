"""The one error a user can mend. The command line prints it on one line and exits with code 2, without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager


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
