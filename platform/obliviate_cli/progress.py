"""What a user sees while long work runs: bars on a terminal, a line now and then elsewhere (job logs, CI)."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 15.0

Update = Callable[[int, int, str], None]  # (done, total, details)


@contextmanager
def progress(console: Console, title: str) -> Iterator[Update]:
    """Yields a function that shows how far the work has come."""
    if console.is_terminal:
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[details]}"),
        )
        with Progress(*columns, console=console) as bars:
            task = bars.add_task(title, total=None, details="")
            yield lambda done, total, details: bars.update(task, completed=done, total=total, details=details)
    else:
        yield _lines(console, title)


def _lines(console: Console, title: str) -> Update:
    began_s = last_s = time.monotonic()
    first = 0

    def update(done: int, total: int, details: str) -> None:
        nonlocal last_s, first
        now_s = time.monotonic()
        first = first or done
        if done < total and now_s - last_s < LINE_EVERY_S:
            return
        last_s = now_s
        rate = (now_s - began_s) / max(1, done - first)
        left = f", {(total - done) * rate:.0f} s left" if first < done < total else ""
        console.print(f"{title}: {done}/{total}{left} {details}", highlight=False)

    return update


def training_details(step: dict[str, Any]) -> str:
    """Loss with its parts, and the speed, of one logged step."""
    parts = " ".join(f"{name} {value:.3f}" for name, value in step["parts"].items())
    return f"loss {step['loss']:.3f} ({parts}) lr {step['learning_rate']:.1e} {step['tokens_per_s']:.0f} tokens/s"
