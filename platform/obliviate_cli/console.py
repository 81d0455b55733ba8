"""The terminal: as all commands write to it, and what it makes of a recipe's events."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live

from obliviate_cli.progress import progress
from obliviate_recipes.events import Draw, Update

WIDTH_OF_LOGS = 120  # columns of tables where no terminal says how many it has


def open_console() -> Console:
    """Prints texts as they are: a path or a template may hold [brackets] and :words:, which are no markup here.

    Lines are never broken to the terminal's width, so that they can be copied, searched and piped.
    """
    width = None if sys.stdout.isatty() else WIDTH_OF_LOGS
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True, width=width)


class Terminal:
    """Events as lines, tables and bars."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or open_console()

    def said(self, text: str) -> None:
        self._console.print(text)

    def warned(self, text: str) -> None:
        self._console.print(f"warning: {text}", style="yellow")

    def shown(self, table: RenderableType) -> None:
        self._console.print(table)

    @contextmanager
    def progressing(self, title: str) -> Iterator[Update]:
        with progress(self._console, title) as update:
            yield update

    @contextmanager
    def watched(self) -> Iterator[Draw | None]:
        if not self._console.is_terminal:
            yield None
            return
        with Live(console=self._console, refresh_per_second=2) as live:
            yield live.update

    def began(self, folder: Path) -> None: ...

    def ended(self, folder: Path) -> None: ...
