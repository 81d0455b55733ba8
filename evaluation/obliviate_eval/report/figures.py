"""A report's charts as files for papers: SVG or PDF, drawn by matplotlib without a browser.

The same figures give the same bytes: no dates, and ids of one salt. Texts stay texts in SVG, and fonts are embedded in
PDF.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from obliviate.errors import UserError
from obliviate.runs import write_whole
from obliviate_eval.report.build import forgotten, kept, labels_of, sets_of
from obliviate_eval.report.model import ModelReport
from obliviate_eval.report.plots import Axis, Look, looks
from obliviate_eval.statistics import Figure

FigureFormat = Literal["svg", "pdf"]
STYLE: dict[str, Any] = {
    "svg.hashsalt": "obliviate", "svg.fonttype": "none", "pdf.fonttype": 42, "font.family": "DejaVu Sans",
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
}  # fmt: skip
UNDATED: dict[FigureFormat, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
MARKERS = {"original": "D", "target": "s", "retain": "*"}
# Plotly's patterns, for when the colours are used up -> what tells bars and points apart then.
HATCHES, TURNS = {"": "", "/": "//", "x": "xx", ".": ".."}, {"": "o", "/": "^", "x": "v", ".": "P"}
WIDTH_INCHES, BAR_INCHES = 6.4, 0.11


def write_figures(models: Sequence[ModelReport], path: Path, form: FigureFormat) -> list[Path]:
    """Beside `path`, each with what it shows behind the name: the trade-off, and the metrics of each set.

    Raises UserError where matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
    except ModuleNotFoundError as error:
        raise UserError(
            f"--format {form}: {error.name} is not installed; pip install 'obliviate[figures]', or leave the format out"
        ) from error
    look = looks([(model.name, model.kind) for model in models])
    written = []
    with rc_context(STYLE):
        for name, drawn in _figures(models, look).items():
            content = BytesIO()
            drawn.savefig(content, format=form, metadata=UNDATED[form], bbox_inches="tight")
            file = path.with_name(f"{path.stem}-{name}.{form}")
            write_whole(file, partial(Path.write_bytes, data=content.getvalue()))
            written.append(file)
    return written


def _figures(models: Sequence[ModelReport], look: Sequence[Look]) -> dict[str, Any]:
    found = {}
    x, y = forgotten(models), kept(models)
    if any(a is not None and b is not None for a, b in zip(_values(x.figures), _values(y.figures), strict=True)):
        found["trade-off"] = _trade_off(look, x, y)
    for name in sets_of(models):
        means = [model.evaluation.sets.get(name, {}) for model in models]
        found[name] = _bars(look, means, labels_of(models, name))
    return found


def _trade_off(look: Sequence[Look], x: Axis, y: Axis) -> Any:
    """What was forgotten against what was kept; dotted lines meet at the gold standard."""
    figure, axes = _canvas(4.2)
    for each, a, b in zip(look, x.figures, y.figures, strict=True):
        if a is None or b is None or a.value is None or b.value is None:
            continue
        if each.kind == "retain":
            for draw, value in ((axes.axvline, a.value), (axes.axhline, b.value)):
                draw(value, color=each.colour, linestyle=":", linewidth=1, zorder=1)
        axes.errorbar(
            [a.value], [b.value], xerr=_around([a]), yerr=_around([b]), color=each.colour, linestyle="none", capsize=2,
            marker=MARKERS[each.kind] if each.kind != "unlearned" else TURNS[each.pattern], elinewidth=0.8,
            markersize=11 if each.kind == "retain" else 7, markeredgecolor="black", markeredgewidth=0.5,
            label=each.name,
        )  # fmt: skip
    _name(axes, x.title, y.title)
    if x.limits is not None:
        axes.set_xlim(*x.limits)
    if y.limits is not None:
        axes.set_ylim(*y.limits)
    _legend(axes, *axes.get_legend_handles_labels())
    return figure


def _bars(look: Sequence[Look], means: Sequence[Mapping[str, Figure]], labels: Mapping[str, str]) -> Any:
    """Each metric's mean, model by model, from the top."""
    shown = [(each, found) for each, found in zip(look, means, strict=True) if found]
    figure, axes = _canvas(0.9 + len(labels) * (0.16 + BAR_INCHES * len(shown)))
    height = 0.8 / max(1, len(shown))
    for place, (each, found) in enumerate(shown):
        figures = [found.get(metric, Figure(None, None, None, 0, 0)) for metric in labels]
        known = [(row, f) for row, f in enumerate(figures) if f.value is not None]
        axes.barh(
            [row - 0.4 + (place + 0.5) * height for row, _ in known], [f.value for _, f in known], height * 0.9,
            xerr=_around([f for _, f in known]), color=each.colour, edgecolor="black", linewidth=0.4,
            hatch=HATCHES[each.pattern], error_kw={"elinewidth": 0.8, "capsize": 1.5},
        )  # fmt: skip
    axes.set_yticks(range(len(labels)), list(labels.values()))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    handles, names = [_patch(each) for each, _ in shown], [each.name for each, _ in shown]
    _legend(axes, handles, names)
    return figure


def _legend(axes: Any, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Beside the plot: names are long, and points lie near each other."""
    legend = axes.legend(handles, names, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _canvas(height_inches: float) -> tuple[Any, Any]:
    """Not pyplot's: it keeps every figure, and picks a window where there is one."""
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(WIDTH_INCHES, height_inches))
    return figure, figure.add_subplot()


def _patch(look: Look) -> Any:
    from matplotlib.patches import Patch

    return Patch(facecolor=look.colour, edgecolor="black", linewidth=0.4, hatch=HATCHES[look.pattern])


def _name(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x, parse_math=False)
    axes.set_ylabel(y, parse_math=False)
    axes.grid(color="#dddddd", linewidth=0.5)


def _around(figures: Sequence[Figure]) -> list[list[float]]:
    """Below and above each value, to the ends of its interval; nothing where there is none."""
    ends = [(f.value or 0.0, f.low, f.high) for f in figures]
    return [
        [0.0 if low is None else max(0.0, value - low) for value, low, _ in ends],
        [0.0 if high is None else max(0.0, high - value) for value, _, high in ends],
    ]


def _values(figures: Sequence[Figure | None]) -> list[float | None]:
    return [None if figure is None else figure.value for figure in figures]
