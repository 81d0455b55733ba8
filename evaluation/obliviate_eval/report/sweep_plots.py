"""The charts of a sweep: its front, two figures at a time, and its configurations as lines over their parameters.

Both are plain scatter plots: plotly's own parallel coordinates compile code while they run, which the report's content
security policy forbids. Each trace says in `meta` which method it is of.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import log10
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from obliviate_eval.report.plots import ABSENT, DASHES, UNLEARNED_COLOURS, Chart, Look, error_bars, plain_figure, spoken
from obliviate_eval.statistics import Figure

if TYPE_CHECKING:
    from obliviate_eval.report.sweep import Configuration, SweepReport

ORIGINAL_COLOUR = "#66707d"
SYMBOLS = ("circle", "square", "triangle-up", "cross")  # one after the other as the colours are used up
LOG_FROM = 20.0  # an axis of positive numbers whose largest is this many times its smallest is drawn in the logarithm


@dataclass(frozen=True)
class Side:
    """One figure of the front, as an axis."""

    name: str
    title: str
    of: Callable[["Configuration"], Figure]
    original: float | None = None  # the original's


def front_charts(report: "SweepReport", looks: Sequence[Look]) -> list[Chart]:
    """The front of two figures; of three each pair of them, the same configurations being on it in each."""
    forget = Side(report.forget, f"{_spaced(report.forget)} → more forgotten", _forget, report.original[0])
    utility = Side(report.utility, f"{_spaced(report.utility)} → more kept", _utility, report.original[1])
    charts = [_front_chart("front", "What was forgotten against what was kept", forget, utility, report, looks)]
    if report.attacked:
        survives = Side("survives", "Survives attacks → less comes back", _survives)
        charts += [
            _front_chart("survives", "What was forgotten against what of it survives attacks", forget, survives, report,
                         looks),
            _front_chart("kept", "What survives attacks against what was kept", survives, utility, report, looks),
        ]  # fmt: skip
    return charts


def _front_chart(id_: str, title: str, across: Side, up: Side, report: "SweepReport", looks: Sequence[Look]) -> Chart:
    """A marker a configuration; the front is the line, where it is of these two figures alone.

    Intervals are drawn on the front alone: those of all would hide it. Pointing at a marker tells them.
    """
    figure = go.Figure(layout={"template": "none"})
    on_front = sorted((each for each in report.configurations if each.on_front), key=lambda each: _x(each))
    for index, look in enumerate(looks):
        own = [each for each in report.configurations if each.method == look.name]
        figure.add_scatter(
            x=[across.of(each).value for each in own], y=[up.of(each).value for each in own],
            error_x=error_bars([across.of(each) if each.on_front else ABSENT for each in own]),
            error_y=error_bars([up.of(each) if each.on_front else ABSENT for each in own]),
            name=escape(look.name), mode="markers", cliponaxis=False, meta=index,
            marker={
                "color": look.colour, "line": {"width": 1},
                "symbol": ["star" if each.chosen else symbol(index) for each in own],
                "size": [18 if each.chosen else 13 if each.on_front else 9 for each in own],
                "opacity": [1 if each.on_front or each.chosen else 0.4 for each in own],
            },
            customdata=[_described(each, report) for each in own], hovertemplate="%{customdata}<extra></extra>",
        )  # fmt: skip
    if not report.attacked:
        figure.add_scatter(
            x=[across.of(each).value for each in on_front], y=[up.of(each).value for each in on_front], mode="lines",
            name="front", line={"color": ORIGINAL_COLOUR, "dash": "dot", "width": 1.5}, hoverinfo="skip",
        )  # fmt: skip
    if across.original is not None and up.original is not None:
        figure.add_scatter(
            x=[across.original], y=[up.original], mode="markers+text", text=["original"], name="original",
            textposition="bottom center", marker={"color": ORIGINAL_COLOUR, "symbol": "diamond", "size": 13},
            hovertemplate=f"original<br>{across.name} %{{x:.3f}}<br>{up.name} %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title=across.title)
    figure.update_yaxes(title=up.title)
    points = "; ".join(
        f"{each.name} ({each.method}) {across.of(each).value:.3f}, {up.of(each).value:.3f}" for each in on_front
    )
    alt = f"Scatter of {across.name} against {up.name}. On the front: {points or 'nothing'}."
    return Chart(id_, title, alt, plain_figure(figure), height_px=520)


def _forget(each: "Configuration") -> Figure:
    return each.forget


def _utility(each: "Configuration") -> Figure:
    return each.utility


def _survives(each: "Configuration") -> Figure:
    return each.survives or ABSENT


def _spaced(name: str) -> str:
    return name.replace("_", " ").capitalize()


def parallel_coordinates(report: "SweepReport", looks: Sequence[Look]) -> Chart:
    """A line a configuration, over its parameters and its figures; each axis from its lowest to its highest value.

    A line is broken where its method has no such parameter.
    """
    rows = [
        {
            **each.values,
            report.forget: each.forget.value,
            report.utility: each.utility.value,
            **({} if each.survives is None else {"survives": each.survives.value}),
        }
        for each in report.configurations
    ]
    figures = (report.forget, report.utility, *(["survives"] if report.attacked else []))
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in figures]
    names += figures
    scales = {name: _Scale([row[name] for row in rows if name in row]) for name in names}
    figure = go.Figure(layout={"template": "none"})
    for index, look in enumerate(looks):
        x: list[int | None] = []
        y: list[float | None] = []
        described: list[str] = []
        for each, row in zip(report.configurations, rows, strict=True):
            if each.method != look.name:
                continue
            x += [*range(len(names)), None]
            y += [*(scales[name](row[name]) if name in row else None for name in names), None]
            described += [_described(each, report)] * (len(names) + 1)
        figure.add_scatter(
            x=x, y=y, mode="lines+markers", name=escape(look.name), meta=index, connectgaps=False,
            line={"color": look.colour, "width": 1.25, "dash": DASHES[_turn(index) % len(DASHES)]},
            marker={"color": look.colour, "size": 5, "symbol": symbol(index)},
            customdata=described, hovertemplate="%{customdata}<extra></extra>",
        )  # fmt: skip
    ticks = [f"{escape(name.replace('_', ' '))}<br>{escape(scales[name].ends)}" for name in names]
    figure.update_xaxes(tickmode="array", tickvals=list(range(len(names))), ticktext=ticks, automargin=True)
    figure.update_yaxes(showticklabels=False, range=[-0.05, 1.05])
    alt = f"Each configuration as a line over {', '.join(names)}; the numbers are in the table."
    return Chart("parallel", "Parameters and figures", alt, plain_figure(figure), height_px=460)


class _Scale:
    """An axis of the parallel coordinates: values to [0, 1]. Texts are spread evenly, in the order of their names."""

    def __init__(self, values: Sequence[Any]) -> None:
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        self._texts = [] if len(numbers) == len(values) else sorted({str(value) for value in values})
        self._low, self._high = (min(numbers), max(numbers)) if not self._texts and numbers else (0.0, 1.0)
        self._log = self._low > 0 and self._high / self._low >= LOG_FROM

    def __call__(self, value: Any) -> float:
        if self._texts:
            return (self._texts.index(str(value)) + 0.5) / len(self._texts)
        if self._high == self._low:
            return 0.5
        if self._log:
            return log10(value / self._low) / log10(self._high / self._low)
        return float((value - self._low) / (self._high - self._low))

    @property
    def ends(self) -> str:
        """What stands below the axis's name."""
        if self._texts:
            return ", ".join(self._texts)
        return f"{self._low:.3g}" if self._low == self._high else f"{self._low:.3g} – {self._high:.3g}"


def symbol(index: int) -> str:
    """Of the method in that place: methods beyond the colours have one again, with another marker."""
    return SYMBOLS[_turn(index) % len(SYMBOLS)]


def _turn(index: int) -> int:
    return index // len(UNLEARNED_COLOURS)


def _described(each: "Configuration", report: "SweepReport") -> str:
    values = [f"{escape(name)} = {escape(str(value))}" for name, value in each.values.items()]
    mark = " (chosen)" if each.chosen else " (front)" if each.on_front else ""
    lines = [f"<b>{escape(each.method)}</b> {each.name}{mark}", *values]
    survives = [] if each.survives is None else [f"survives {spoken(each.survives)}"]
    figures = [f"{report.forget} {spoken(each.forget)}", f"{report.utility} {spoken(each.utility)}", *survives]
    return "<br>".join([*lines, *figures])


def _x(each: "Configuration") -> float:
    assert each.forget.value is not None
    return each.forget.value
