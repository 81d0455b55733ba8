"""What a user sees while long work runs: bars on a terminal, a line now and then elsewhere (job logs, CI)."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from obliviate_recipes.events import Update

LINE_EVERY_S = 15.0


@contextmanager
def progress(console: Console, title: str) -> Iterator[Update]:
    """Yields a function that shows how far the work has come. The work may have stages, each with its own total."""
    if not console.is_terminal:
        lines = _Lines(console, title)
        yield lines.update
        lines.end()
        return
    columns = (
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with _Bar(*columns, console=console) as bar:
        task = bar.add_task(title, total=None, details="")
        yield lambda done, total, details: bar.update(task, completed=done, total=total, details=details)


class _Bar(Progress):
    """The details have a line of their own: beside the bar they would push it off a narrow terminal."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield Text(task.fields["details"], style="dim", no_wrap=True, overflow="ellipsis")


class _Lines:
    """A line every LINE_EVERY_S, at the end of each stage, and where the work ends before that.

    The time left follows the pace since the first update of the stage: what came before it was start-up.
    """

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        self._printed_s = self._first_s = monotonic()
        self._first = self._done = self._total = 0
        self._unprinted = ""

    def update(self, done: int, total: int, details: str) -> None:
        if total != self._total or done < self._done:
            self._total, self._first, self._first_s = total, done, monotonic()
        elif done == self._done == total:  # told twice that the stage is done
            return
        self._done = done
        now_s = monotonic()
        self._unprinted = f"{self._title}: {done}/{total} {details}"
        if done == total or now_s - self._printed_s >= LINE_EVERY_S:
            self._printed_s, self._unprinted = now_s, ""
            self._console.print(f"{self._title}: {done}/{total}{self._time_left(now_s)} {details}")

    def end(self) -> None:
        if self._unprinted:
            self._console.print(self._unprinted)

    def _time_left(self, now_s: float) -> str:
        if not self._first < self._done < self._total:
            return ""
        left_s = (now_s - self._first_s) / (self._done - self._first) * (self._total - self._done)
        return f", {left_s:.0f} s left"
