"""Tables of the terminal at any width: no figure is cut."""

from io import StringIO

import pytest
from rich.console import Console

from obliviate.console_table import ConsoleTable
from obliviate_cli.plan_command import show
from obliviate_recipes.costs.estimate import Part
from obliviate_recipes.costs.hardware import GPUS, Cluster

FIGURES = ("2.71e+13", "0.123\n0.10–0.15", "4 (2 at once)")


def table() -> ConsoleTable:
    found = ConsoleTable(title="title of it", caption="caption of it")
    found.add_column("Model")
    for title in ("tokens of it", "mean", "times"):
        found.add_column(title, justify="right")
    found.add_row("unlearn-me+gd-fictitious-4bf7e6d682", *FIGURES)
    return found


def printed(what: ConsoleTable, width: int) -> str:
    out = StringIO()
    Console(file=out, width=width, soft_wrap=True).print(what)
    assert max(map(len, out.getvalue().splitlines())) <= width
    return out.getvalue()


@pytest.mark.parametrize("width", [120, 60, 50, 44, 40])
def test_every_figure_is_whole(width: int) -> None:
    shown = printed(table(), width)
    assert "…" not in shown
    assert set(" ".join(FIGURES).split()) <= set(shown.replace("│", " ").split())
    assert "title of it" in shown
    assert "caption of it" in shown


def test_a_narrow_table_is_as_it_was_on_a_wide_terminal_afterwards() -> None:
    found, wide = table(), printed(table(), 120)
    assert printed(found, 50) != wide
    assert printed(found, 120) == wide


def test_without_room_each_row_is_a_list() -> None:
    lines = [line.split() for line in printed(table(), 36).splitlines()]
    assert ["tokens", "of", "it", "2.71e+13"] in lines
    assert ["mean", "0.123", "0.10–0.15"] in lines


@pytest.mark.parametrize("width", [120, 80, 60])
def test_a_plans_figures(width: int) -> None:
    part = Part(
        title="unlearn with ME+GD (weights 0.1 and 1)", repeats=12, at_a_time=4, gpus=16, seconds={"steps": 41152.0},
        tokens=2.71e13, flops=3.14e25, network_bytes=2.718e18, memory_bytes=123.4e9, host_bytes=0, limit="compute",
    )  # fmt: skip
    out = StringIO()
    show([part], Cluster(GPUS["h100"], 8), "h100", 16, Console(file=out, width=width, soft_wrap=True))
    words = out.getvalue().replace("│", " ").split()
    assert {"2.71e+13", "3.14e+10", "2.72e+09", "2057.6", "2194.77", "123.4"} <= set(words)
    assert "…" not in out.getvalue()
    assert ("│" in out.getvalue()) == (width >= 80)  # a table
