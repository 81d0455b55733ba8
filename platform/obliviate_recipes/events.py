"""What a recipe tells of its work: to a terminal, a notebook, a log, or nobody."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import RenderableType

Update = Callable[[int, int, str], None]  # (done, total, details)
Draw = Callable[["RenderableType"], None]


class Events(Protocol):
    """Whoever is told."""

    def said(self, text: str) -> None:
        """Something of use to who waits, in one line."""

    def warned(self, text: str) -> None:
        """Something that the user may not have meant, in one line."""

    def shown(self, table: "RenderableType") -> None:
        """A table."""

    def progressing(self, title: str) -> AbstractContextManager[Update]:
        """Long work. It may have parts one after another, each with its own total."""
        ...

    def watched(self) -> AbstractContextManager[Draw | None]:
        """What draws a table anew in its place; None where nothing can be drawn over."""
        ...

    def began(self, folder: Path) -> None:
        """A run is being made in its folder, by this process or by workers."""

    def ended(self, folder: Path) -> None:
        """The run in the folder is whole, now or since an earlier command."""


class Quiet:
    """Nobody is told."""

    def said(self, text: str) -> None: ...

    def warned(self, text: str) -> None: ...

    def shown(self, table: "RenderableType") -> None: ...

    def progressing(self, title: str) -> AbstractContextManager[Update]:
        return nullcontext(lambda done, total, details: None)

    def watched(self) -> AbstractContextManager[Draw | None]:
        return nullcontext()

    def began(self, folder: Path) -> None: ...

    def ended(self, folder: Path) -> None: ...


QUIET: Events = Quiet()


class Bars:
    """Bars and lines, in a notebook as in a terminal. No tables: who calls a function has the figures from it."""

    def said(self, text: str) -> None:
        from tqdm.auto import tqdm

        tqdm.write(text)  # above a bar that stands

    def warned(self, text: str) -> None:
        self.said(f"warning: {text}")

    def shown(self, table: "RenderableType") -> None: ...

    @contextmanager
    def progressing(self, title: str) -> Iterator[Update]:
        from tqdm.auto import tqdm

        with tqdm(desc=title) as bar:

            def update(done: int, total: int, details: str) -> None:
                if total != bar.total or done < bar.n:  # another part
                    bar.reset(total)
                bar.set_postfix_str(details, refresh=False)
                bar.update(done - bar.n)

            yield update

    def watched(self) -> AbstractContextManager[Draw | None]:
        return nullcontext()

    def began(self, folder: Path) -> None: ...

    def ended(self, folder: Path) -> None: ...
