"""The charts of a report, as plotly figures. Colours of text, grid and background are the page's: it sets them in light
and dark, so figures carry data, axes and the models' colours only.

Each trace says in `meta` whose it is, by the model's index, so that the page can hide a model everywhere at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle
from typing import Any

import plotly.graph_objects as go

from obliviate_eval.statistics import Figure

# Okabe and Ito's palette (2008), distinct under the common colour vision deficiencies. Colour is for unlearned models;
# what they started from is grey, and the gold standard, a model that never saw the forget set, is gold.
REFERENCE_COLOURS = {"original": "#a0a8b3", "target": "#66707d", "retain": "#e69f00"}
UNLEARNED_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#f0e442")
SYMBOLS = {"original": "diamond", "target": "square", "retain": "star", "unlearned": "circle"}
ABSENT = Figure(value=None, low=None, high=None, scored=0, unscored=0)
# What training measures between steps -> its name in charts.
MEASURED = {
    "score": "score: (1 - facts) x answers",
    "forget": "facts to forget",
    "retain": "answers to keep",
    "refused": "rows to keep refused",
    "kl": "KL to the start (nats per token)",
}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


@dataclass(frozen=True)
class Look:
    """How one model appears in every chart and table."""

    name: str
    kind: str
    colour: str
    pattern: str = ""  # fills bars once the colours are used up


@dataclass(frozen=True)
class Chart:
    """A figure with what a reader who can't see it needs. `model` is the index of the one it is about, if it is one."""

    id: str
    title: str
    alt: str
    figure: dict[str, Any]
    height_px: int
    model: int | None = None


def looks(models: Sequence[tuple[str, str]]) -> list[Look]:
    """One fixed colour for each (name, kind), in the order given."""
    found: list[Look] = []
    for name, kind in models:
        if kind in REFERENCE_COLOURS:
            found.append(Look(name, kind, REFERENCE_COLOURS[kind]))
        else:
            turn, place = divmod(sum(look.kind == "unlearned" for look in found), len(UNLEARNED_COLOURS))
            found.append(Look(name, kind, UNLEARNED_COLOURS[place], ("", "/", "x", ".")[turn % 4]))
    return found


@dataclass(frozen=True)
class Axis:
    """One figure for each model, None where it has none. `limits`: what is shown; None fits the values."""

    name: str
    title: str
    figures: Sequence[Figure | None]
    limits: tuple[float, float] | None


def trade_off(looks: Sequence[Look], forgotten: Axis, kept: Axis) -> Chart | None:
    """What was forgotten (x) against what was kept (y); None where no model has both."""
    figure = go.Figure(layout={"template": "none"})
    described = []
    for index, (look, x, y) in enumerate(zip(looks, forgotten.figures, kept.figures, strict=True)):
        if x is None or y is None or x.value is None or y.value is None:
            continue
        gold = look.kind == "retain"
        figure.add_scatter(
            x=[x.value], y=[y.value], error_x=error_bars([x]), error_y=error_bars([y]), name=escape(look.name),
            text=[escape(look.name) + ("<br><i>gold standard</i>" if gold else "")], mode="markers+text",
            textposition="bottom center" if gold else "top center", cliponaxis=False, meta=index,
            marker={"color": look.colour, "symbol": SYMBOLS[look.kind], "size": 18 if gold else 13,
                    "line": {"width": 1}},
            hovertemplate=f"<b>{escape(look.name)}</b><br>{forgotten.name} {spoken(x)}<br>"
                          f"{kept.name} {spoken(y)}<extra></extra>",
        )  # fmt: skip
        if gold:
            figure.add_vline(x=x.value, line={"color": look.colour, "dash": "dot", "width": 1.5}, layer="below")
            figure.add_hline(y=y.value, line={"color": look.colour, "dash": "dot", "width": 1.5}, layer="below")
        described.append(f"{look.name}: {forgotten.name} {x.value:.3f}, {kept.name} {y.value:.3f}")
    if not described:
        return None
    figure.update_xaxes(title=forgotten.title, range=_fitting(forgotten))
    figure.update_yaxes(title=kept.title, range=_fitting(kept))
    alt = f"Scatter of {forgotten.name} against {kept.name}. {'; '.join(described)}."
    return Chart("trade-off", "What was forgotten against what was kept", alt, plain_figure(figure), height_px=460)


def _fitting(axis: Axis) -> tuple[float, float] | None:
    """What shows all values, their intervals and names, and no more of the axis than `limits`; None: plotly fits it."""
    if axis.limits is None:
        return None
    ends = [end for each in axis.figures if each is not None for end in (each.low, each.value, each.high)]
    known = [end for end in ends if end is not None]
    room = max(0.05, 0.15 * (max(known) - min(known)))  # for names beside the outermost points
    return max(axis.limits[0], min(known) - room), min(axis.limits[1], max(known) + room)


def set_bars(name: str, looks: Sequence[Look], means: Sequence[dict[str, Figure]], labels: dict[str, str]) -> Chart:
    """Each metric's mean on one evaluation set, model by model. `labels`: the metrics, in order, with their names."""
    figure = go.Figure(layout={"template": "none", "barmode": "group", "bargap": 0.22, "bargroupgap": 0.06})
    for index, (look, found) in enumerate(zip(looks, means, strict=True)):
        if not found:
            continue
        figures = [found.get(metric, ABSENT) for metric in labels]
        figure.add_bar(
            x=[each.value for each in figures], y=[escape(label) for label in labels.values()], orientation="h",
            error_x=error_bars(figures), name=escape(look.name), meta=index,
            marker={"color": look.colour, "line": {"width": 0.75},
                    **({"pattern": {"shape": look.pattern}} if look.pattern else {})},
            customdata=[spoken(each) for each in figures],
            hovertemplate=f"<b>{escape(look.name)}</b><br>%{{y}} %{{customdata}}<extra></extra>",
        )  # fmt: skip
    shown = [each for row in means for metric, each in row.items() if metric in labels]
    highest = max((each.high or each.value for each in shown if each.value is not None), default=1.0)
    figure.update_xaxes(range=[0, 1.02 * max(1.0, highest)])  # most metrics score up to 1: the same on every set
    figure.update_yaxes(autorange="reversed", automargin=True)
    bars = len(labels) * sum(map(bool, means))
    alt = f"Bars of each metric's mean on {name} with bootstrap intervals; the numbers are in the table of {name}."
    return Chart(f"bars-{name}", name, alt, plain_figure(figure), height_px=52 + 16 * len(labels) + 10 * bars)


def held_out_curve(index: int, look: Look, curve: Sequence[dict[str, Any]]) -> Chart | None:
    """What was measured between steps, the chosen one marked; None where nothing was."""
    measured = [(row["step"], row["held_out"]) for row in curve if "held_out" in row]
    if not measured:
        return None
    measured.insert(0, (0, {"kl": 0.0, **curve[0].get("held_out_start", {}), "chosen": True}))
    chosen = max(step for step, found in measured if found["chosen"])
    figure = go.Figure(layout={"template": "none", "hovermode": "x unified"})
    lines = {name: label for name, label in MEASURED.items() if name in measured[1][1]}
    for (name, label), dash in zip(lines.items(), cycle(DASHES), strict=False):
        points = [(step, found[name]) for step, found in measured if name in found]
        figure.add_scatter(
            x=[step for step, _ in points], y=[value for _, value in points], name=label, meta=index,
            mode="lines+markers", yaxis="y2" if name == "kl" and len(lines) > 1 else "y",
            line={"color": look.colour, "dash": dash, "width": 2.5 if name == "score" else 1.5}, marker={"size": 4},
            hovertemplate="%{y:.4g}",
        )  # fmt: skip
    figure.add_vline(x=chosen, line={"color": look.colour, "dash": "dot", "width": 1.5}, layer="below")
    figure.update_xaxes(title="Optimiser step")
    figure.update_yaxes(title=MEASURED["kl"] if len(lines) == 1 else "Probability")
    if len(lines) > 1 and "kl" in lines:
        figure.update_layout(yaxis2={"title": MEASURED["kl"], "overlaying": "y", "side": "right", "showgrid": False})
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    last_step, last = measured[-1]
    values = ", ".join(f"{label} {last[name]:.4g}" for name, label in lines.items() if last.get(name) is not None)
    alt = f"Measured between steps of {look.name}: after step {last_step} {values}; the model is that of step {chosen}."
    title = f"{look.name}: on held-out rows, the model being that of step {chosen}"
    return Chart(f"held-out-{index}", title, alt, plain_figure(figure), height_px=300, model=index)


def training_curve(index: int, look: Look, curve: Sequence[dict[str, Any]]) -> Chart | None:
    """Loss and its parts by optimiser step, from the rows that the training loop logs; None where there is none."""
    if not curve:
        return None
    steps = [row["step"] for row in curve]
    lines = {"loss": [row["loss"] for row in curve]}
    lines |= {part: [row["parts"].get(part) for row in curve] for part in curve[0]["parts"]}
    figure = go.Figure(layout={"template": "none", "hovermode": "x unified"})
    for (part, values), dash in zip(lines.items(), cycle(DASHES), strict=False):
        figure.add_scatter(
            x=steps, y=values, name=escape(part), meta=index, mode="lines",
            line={"color": look.colour, "dash": dash, "width": 2.5 if part == "loss" else 1.5},
            text=[_pace(row) if part == "loss" else "" for row in curve], hovertemplate="%{y:.4g}%{text}",
        )  # fmt: skip
    figure.update_xaxes(title="Optimiser step")
    figure.update_yaxes(title="Loss")
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    alt = (
        f"Training curve of {look.name}: {', '.join(lines)} over {len(curve)} optimiser steps; "
        f"the loss goes from {lines['loss'][0]:.4g} to {lines['loss'][-1]:.4g}."
    )
    dropped = [(row["step"], len(found)) for row in curve if (found := row.get("early_drop", {}).get("dropped"))]
    left_out = ", ".join(f"{count} after step {step}" for step, count in dropped)
    title = f"{look.name}: forget rows left out on the way, {left_out}" if dropped else look.name
    return Chart(f"curve-{index}", title, alt, plain_figure(figure), height_px=300, model=index)


def error_bars(figures: Sequence[Figure]) -> dict[str, Any]:
    above = [None if f.value is None or f.high is None else f.high - f.value for f in figures]
    below = [None if f.value is None or f.low is None else f.value - f.low for f in figures]
    return {"type": "data", "array": above, "arrayminus": below, "symmetric": False, "thickness": 1.25, "width": 2.5}


def spoken(figure: Figure) -> str:
    if figure.value is None:
        return "not scored"
    interval = "" if figure.low is None or figure.high is None else f" [{figure.low:.3f}, {figure.high:.3f}]"
    over = figure.over_seeds
    seeds = "" if over is None or over.low is None else f", over {over.count} seeds [{over.low:.3f}, {over.high:.3f}]"
    return f"{figure.value:.3f}{interval}{seeds}, n = {figure.scored}"


def _pace(row: dict[str, Any]) -> str:
    return f"<br>learning rate {row['learning_rate']:.3g}<br>{row['tokens_per_s']:,.0f} tokens/s"


def plain_figure(figure: go.Figure) -> dict[str, Any]:
    """Lists and numbers only. An empty template keeps plotly's own 7 kB of colours out of every chart."""
    plain: dict[str, Any] = figure.to_plotly_json()
    plain["layout"]["template"] = {}
    return plain
