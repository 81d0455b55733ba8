"""The terminal as all verbs write to it."""

import sys

from rich.console import Console

WIDTH_OF_LOGS = 120  # columns of tables where no terminal says how many it has


def open_console() -> Console:
    """Prints texts as they are: a path or a template may hold [brackets] and :words:, which are no markup here.

    Lines are never broken to the terminal's width, so that they can be copied, searched and piped.
    """
    width = None if sys.stdout.isatty() else WIDTH_OF_LOGS
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True, width=width)
