"""The front of a sweep as one SVG file, for documents: what the report's chart shows, without a script or a browser.

Beside the plot a strip says which method forgets most for each utility that may be needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from pathlib import Path
from typing import TYPE_CHECKING

from obliviate.runs import write_whole
from obliviate_eval.report.build import environment, label
from obliviate_eval.report.sweep_plots import ORIGINAL_COLOUR, symbol

if TYPE_CHECKING:
    from obliviate_eval.report.sweep import SweepReport

WIDTH, HEIGHT = 820, 500
LEFT, RIGHT, TOP, BOTTOM = 70, 520, 60, 440  # of the plot
TICKS = 6  # about as many
NARROW = 14  # height of a region that no text fits into
# Plotly's names of the symbols -> an outline of about the unit circle's size
OUTLINES = {
    "circle": "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0z",
    "square": "M-.9-.9h1.8v1.8h-1.8z",
    "triangle-up": "M0-1.2L1.1.8H-1.1z",
    "cross": "M-.4-1.1h.8v.7h.7v.8h-.7v.7h-.8v-.7h-.7v-.8h.7z",
    "diamond": "M0-1.3L1.3 0 0 1.3-1.3 0z",
}


@dataclass(frozen=True)
class Scale:
    """Values to places along an axis of the picture: from `begin`, where `low` lies, to `end`."""

    low: float
    high: float
    begin: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], begin: float, end: float) -> "Scale":
        """With a margin of 6 % on each side."""
        low, high = min(values), max(values)
        margin = 0.06 * ((high - low) or 1)
        return cls(low - margin, high + margin, begin, end)

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.begin + min(max(share, 0.0), 1.0) * (self.end - self.begin), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and texts of round values, 1, 2 or 5 times a power of ten apart."""
        rough = (self.high - self.low) / TICKS
        power = 10 ** floor(log10(rough))
        apart = next(power * each for each in (1, 2, 5, 10) if power * each >= rough)
        digits = max(0, -floor(log10(apart) + 1e-9))
        numbers = range(ceil(self.low / apart), floor(self.high / apart) + 1)
        return [(self(number * apart), f"{number * apart:.{digits}f}") for number in numbers]


def draw_front(report: "SweepReport", path: Path) -> None:
    """Write it whole; places are rounded to a tenth of a pixel, so that the same figures draw the same file."""
    from obliviate_eval.report.sweep import looks_of

    points = [(_value(each.forget.value), _value(each.utility.value)) for each in report.configurations]
    x = Scale.around([report.original[0], *(forget for forget, _ in points)], LEFT, RIGHT)
    y = Scale.around([report.original[1], *(utility for _, utility in points)], BOTTOM, TOP)
    look = {each.name: (each.colour, OUTLINES[symbol(index)]) for index, each in enumerate(looks_of(report))}
    markers = [
        (x(forget), y(utility), *look[each.method], each)
        for each, (forget, utility) in zip(report.configurations, points, strict=True)
    ]
    on_front = sorted(point for point, each in zip(points, report.configurations, strict=True) if each.on_front)
    svg = (
        environment()
        .get_template("front.svg.j2")
        .render(
            report=report, x=x, y=y, look=look, markers=sorted(markers, key=lambda marker: marker[-1].on_front),
            steps=_steps(on_front, x, y), measured=list(dict.fromkeys(each.method for each in report.configurations)),
            regions=[_strip(each.method, y(each.high), y(each.low), look) for each in report.regions],
            original=(x(report.original[0]), y(report.original[1]), ORIGINAL_COLOUR, OUTLINES["diamond"]),
            forget=label(report.forget), utility=label(report.utility), narrow=NARROW,
            width=WIDTH, height=HEIGHT, left=LEFT, right=RIGHT, top=TOP, bottom=BOTTOM,
        )
    )  # fmt: skip
    write_whole(path, lambda temporary: temporary.write_text(svg, encoding="utf-8"))


def _steps(on_front: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    """The edge of what the front dominates, points by forget ascending: across to each point, and down from it."""
    if not on_front:
        return ""
    floors = [*(utility for _, utility in on_front[1:]), y.low]
    across = (f"H{x(forget)}V{y(below)}" for (forget, _), below in zip(on_front, floors, strict=True))
    return f"M{LEFT} {y(on_front[0][1])}{''.join(across)}"


def _strip(method: str, top: float, bottom: float, look: dict[str, tuple[str, str]]) -> tuple[str, float, float, str]:
    """Method, top, height and colour of a region; of several equal methods the first one's colour."""
    return method, top, round(bottom - top, 1), look[method.partition(", ")[0]][0]


def _value(value: float | None) -> float:
    assert value is not None
    return value
