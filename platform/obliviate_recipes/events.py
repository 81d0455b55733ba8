"""What a recipe tells of its work: to a terminal, a notebook, a log, or nobody."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from rich.console import RenderableType

Update = Callable[[int, int, str], None]  # (done, total, details)
Draw = Callable[[RenderableType], None]


class Events(Protocol):
    """Whoever is told."""

    def said(self, text: str) -> None:
        """Something of use to who waits, in one line."""

    def warned(self, text: str) -> None:
        """Something that the user may not have meant, in one line."""

    def shown(self, table: RenderableType) -> None:
        """A table."""

    def progressing(self, title: str) -> AbstractContextManager[Update]:
        """Long work. It may have parts one after another, each with its own total."""
        ...

    def watched(self) -> AbstractContextManager[Draw | None]:
        """What draws a table anew in its place; None where nothing can be drawn over."""
        ...


class Quiet:
    """Nobody is told."""

    def said(self, text: str) -> None: ...

    def warned(self, text: str) -> None: ...

    def shown(self, table: RenderableType) -> None: ...

    def progressing(self, title: str) -> AbstractContextManager[Update]:
        return nullcontext(lambda done, total, details: None)

    def watched(self) -> AbstractContextManager[Draw | None]:
        return nullcontext()


QUIET: Events = Quiet()
