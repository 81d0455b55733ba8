"""A continual run's forgetting matrix in the report (heat maps and curves) and in the terminal."""

from collections.abc import Callable, Sequence
from html import escape

import plotly.graph_objects as go
from rich.text import Text

from obliviate.console_table import ConsoleTable
from obliviate_eval.forgetting import ForgettingMatrix
from obliviate_eval.report.build import Section
from obliviate_eval.report.plots import UNLEARNED_COLOURS, Chart, plain_figure
from obliviate_eval.statistics import Figure

NOTHING = "–"
SHARE = (0.0, 1.02)  # what efficacy and utility lie in


def forgetting_section(matrices: Sequence[ForgettingMatrix]) -> Section:
    """One heat map a method, and for all methods together what each step costs and gives."""
    curves = [
        _curve("utility", "Model utility after each step", matrices, lambda m, i: m.utility[i].value, SHARE),
        _curve(
            "current", "Forget efficacy of the step's own task", matrices, lambda m, i: m.value(i, i) if i else None
        ),
        _curve("leakage", "Backward leakage: what came back of earlier tasks", matrices, lambda m, i: m.leakage(i)),
        _curve("spill", "Spill: what was lost of later tasks", matrices, lambda m, i: m.spill(i)),
    ]
    return Section(
        id="continual",
        title="Continual",
        lead=(
            "Forget efficacy of every task (column) after every step (row). The diagonal is what each step was asked "
            "for; below it stands what later steps left of earlier forgetting, above it what was lost unasked."
        ),
        charts=[*(_heat_map(index, matrix) for index, matrix in enumerate(matrices)), *curves],
    )


def matrix_table(matrix: ForgettingMatrix) -> ConsoleTable:
    """One row a step: every task's forget efficacy, the step's own in bold, then leakage, spill and utility."""
    table = ConsoleTable(title=f"{matrix.name}: forget efficacy of each task after each step")
    table.add_column("Step")
    for task in matrix.tasks:
        table.add_column(task.replace("_", " "), justify="right")
    for title in ("Leakage ↓", "Spill ↓", "MU ↑"):
        table.add_column(title, justify="right")
    for step, row in enumerate(matrix.efficacy):
        cells = [
            Text(_shown(figure.value), style="bold" if task == step else "dim" if task > step else "")
            for task, figure in enumerate(row, 1)
        ]
        measures = (matrix.leakage(step), matrix.spill(step), matrix.utility[step].value)
        table.add_row(_step(step, matrix), *cells, *(Text(_shown(each)) for each in measures))
    return table


def _heat_map(index: int, matrix: ForgettingMatrix) -> Chart:
    steps = [_step(i, matrix) for i in range(len(matrix.efficacy))]
    tasks = [escape(task.replace("_", " ")) for task in matrix.tasks]
    values = [[figure.value for figure in row] for row in matrix.efficacy]
    figure = go.Figure(layout={"template": "none"})
    figure.add_heatmap(
        z=values, x=tasks, y=steps, zmin=0, zmax=1, colorscale="Cividis", xgap=2, ygap=2,
        text=[[_shown(value) for value in row] for row in values], texttemplate="%{text}",
        customdata=[[_interval(each) for each in row] for row in matrix.efficacy],
        hovertemplate="%{y}, %{x}: %{customdata}<extra></extra>", colorbar={"title": "FE"},
    )  # fmt: skip
    for step in range(1, len(matrix.efficacy)):  # a frame around what each step was asked to forget
        figure.add_shape(type="rect", x0=step - 1.5, x1=step - 0.5, y0=step - 0.5, y1=step + 0.5, line={"width": 2.5})
    figure.update_xaxes(title="Task")
    figure.update_yaxes(autorange="reversed", automargin=True)
    rows = "; ".join(f"{step}: {', '.join(map(_shown, row))}" for step, row in zip(steps, values, strict=True))
    alt = f"Heat map of forget efficacy of {matrix.name}, tasks {', '.join(matrix.tasks)}. {rows}."
    return Chart(f"matrix-{index}", matrix.name, alt, plain_figure(figure), height_px=110 + 44 * len(steps))


def _curve(
    name: str,
    title: str,
    matrices: Sequence[ForgettingMatrix],
    value: Callable[[ForgettingMatrix, int], float | None],
    limits: tuple[float, float] | None = None,
) -> Chart:
    """`limits`: of what is shown; None fits the values, with 0 among them."""
    figure = go.Figure(layout={"template": "none", "hovermode": "x unified"})
    told = []
    for index, matrix in enumerate(matrices):
        values = [value(matrix, step) for step in range(len(matrix.efficacy))]
        turn, place = divmod(index, len(UNLEARNED_COLOURS))
        figure.add_scatter(
            x=list(range(len(values))), y=values, name=escape(matrix.name), mode="lines+markers",
            line={"color": UNLEARNED_COLOURS[place], "dash": ("solid", "dash", "dot")[turn % 3], "width": 2},
            marker={"color": UNLEARNED_COLOURS[place], "size": 8}, hovertemplate="%{y:.3f}",
        )  # fmt: skip
        told.append(f"{matrix.name} {', '.join(map(_shown, values))}")
    figure.update_xaxes(title="Step", dtick=1)
    figure.update_yaxes(automargin=True, range=limits, rangemode="tozero")
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    return Chart(f"continual-{name}", title, f"{title}: {'; '.join(told)}.", plain_figure(figure), height_px=320)


def _step(step: int, matrix: ForgettingMatrix) -> str:
    return f"{step}: {matrix.tasks[step - 1].replace('_', ' ')}" if step else "before"


def _shown(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _interval(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return _shown(figure.value)
    return f"{_shown(figure.value)} [{figure.low:.3f}, {figure.high:.3f}]"
