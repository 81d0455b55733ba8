"""The one error a user can mend. The command line prints it on one line and exits with code 2, without a traceback."""


class UserError(ValueError):
    """What was wrong, where (file, key, value), and what to do about it, in one line."""


class DivergedError(UserError):
    """Training has left the numbers: of the same config nothing else will come, however often it is run."""
