"""Tables for a terminal of any width, in which no figure is cut."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

LEAST = 10  # columns of the terminal that a text is folded into; words are never narrower for it


class ConsoleTable(Table):
    """As rich's. Where it is too wide, columns of figures (those to the right) are broken between words alone, texts
    are folded, and there is no padding; where not even that has room, each row becomes a list, one line a column."""

    def add_column(self, header: RenderableType = "", *more: Any, **options: Any) -> None:
        super().add_column(header, *more, **{"overflow": "fold", **options})

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        found = [_measured(console, options, column) for column in self.columns]
        whole = sum(each.maximum for each in found)
        narrow = [
            each.minimum if column.justify == "right" else min(each.minimum, LEAST)
            for each, column in zip(found, self.columns, strict=True)
        ]
        for padding in (1, 0):
            room = options.max_width - (2 * padding + 1) * len(self.columns) - 1
            if sum(narrow) <= room:
                self.padding = (0, padding)
                for column, least in zip(self.columns, narrow, strict=True):
                    column.width = least if column.justify == "right" and whole > room else None
                yield from super().__rich_console__(console, options)
                return
        yield from self._lists()

    def _lists(self) -> Iterator[RenderableType]:
        if self.title:
            yield self.title
        names = [_in_one_line(column.header) for column in self.columns]
        for first, *rest in zip(*(column.cells for column in self.columns), strict=True):
            yield _in_one_line(first, style="bold")
            grid = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2))
            for name, cell in zip(names[1:], rest, strict=True):
                grid.add_row(Text("  ") + name, _in_one_line(cell))
            yield grid
        if self.caption:
            yield self.caption


def _measured(console: Console, options: ConsoleOptions, column: Column) -> Measurement:
    """Of the widest word, and of the widest line."""
    found = [Measurement.get(console, options, each) for each in (column.header, *column.cells)]
    return Measurement(max(each.minimum for each in found), max(each.maximum for each in found))


def _in_one_line(cell: RenderableType, style: str = "") -> Text:
    """Cells are texts."""
    plain = cell.plain if isinstance(cell, Text) else str(cell)
    return Text(" ".join(plain.split()), style=style)
