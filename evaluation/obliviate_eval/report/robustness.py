"""What attacks brought back: heat map, curves and examples in the report, a table in the terminal, and one page for
whoever answers for a deletion."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

import plotly.graph_objects as go
from rich.text import Text

from obliviate.console_table import ConsoleTable
from obliviate_eval.report.build import Section, TextTable
from obliviate_eval.report.plots import UNLEARNED_COLOURS, Chart, plain_figure
from obliviate_eval.robustness import ANY, FEW, HEADLINE, PLAIN, AttackFigures, ModelFigures, Outcome, Robustness
from obliviate_eval.statistics import Figure

NOTHING = "–"
RUINED = "ruins the model"  # at every setting


def robustness_section(result: Robustness, unlearned: Sequence[str]) -> Section:
    curves = [_curve(index, name, result.outcomes[name]) for index, name in enumerate(unlearned)]
    return Section(
        id="attacks",
        title="Attacks",
        lead=(
            f"Excess recovery: what came back of {result.items} items that no attack was trained on, as a share of "
            "what was lost, beyond what the same attack teaches the retain model. 0: as in a model that never knew; 1: "
            "all of it. Of each attack the setting that brings back most and costs at most "
            f"{result.utility_drop:.0%} of the utility."
        ),
        charts=[_heat_map(result, unlearned), *(chart for chart in curves if chart is not None)],
        tables=[
            _scores(result, unlearned),
            *(_figures(name, result.models[name]) for name in unlearned),
            *(_example(name, result) for name in unlearned),
        ],
    )


def robustness_table(result: Robustness, unlearned: Sequence[str]) -> ConsoleTable:
    """One row a model: its score, what it is by, and the share of the knowledge that is there."""
    least = "retain model" if result.control == "retain" else "nothing"
    table = ConsoleTable(caption=f"intervals: paired bootstrap over {result.items} items; known: 0 {least}, 1 original")
    for title in ("Model", "Robustness ↑", "Strongest attack", "Known, asked", "Known, attacked ↓"):
        table.add_column(title, justify="left" if title in ("Model", "Strongest attack") else "right", overflow="fold")
    for name in unlearned:
        table.add_row(*map(Text, _row(name, result.models[name])))
    return table


def summary_page(title: str, result: Robustness, unlearned: Sequence[str]) -> str:
    """Markdown that needs no knowledge of machine learning."""
    return "\n".join(_page(title, result, unlearned)) + "\n"


def _page(title: str, result: Robustness, unlearned: Sequence[str]) -> Iterator[str]:
    control = "a model that never saw it, which was attacked in the same way" if result.control == "retain" else None
    yield from (f"# {title}: is it really gone?", "")
    yield from ("## What was tried", "")
    attacks = [name for name in result.models[unlearned[0]].attacks if name != ANY]
    yield f"What was to be removed was split in two. Attacks ({len(attacks)}) used one half, or none of it:"
    yield from ("", *(f"- {name}" for name in attacks), "")
    yield (
        f"The other half, {result.items} questions with known answers, was then asked of the model"
        + (f", and of {control}." if control else ". No model that never saw it was at hand for comparison.")
    )
    yield from ("", "## What came back", "")
    for name in unlearned:
        yield f"- **{name}**: {_told(result.outcomes[name])}{_said(result.models[name])}"
    yield from ("", "## What this does not say", "")
    if result.items < FEW:
        yield f"- {result.items} questions are too few to tell a small difference from chance."
    if control is None:
        yield "- Without a model that never saw the information, what an attack teaches by itself counts as recovered."
    yield "- Attacks that were not tried, or tried harder, may bring back more. A high score is no proof of removal."
    yield f"- An attack counts here if it leaves at least {1 - result.utility_drop:.0%} of the model's other knowledge."


def _told(outcomes: Sequence[Outcome]) -> str:
    """How many of the answers the model gives, where generations tell."""
    found = {each.attack: each.recovery for each in outcomes if each.measure == "key_said"}
    if PLAIN not in found or ANY not in found:
        return ""
    usual, attacked = found[PLAIN].before, found[ANY].after
    if usual.value is None or attacked.value is None:
        return ""
    given, brought = round(usual.value * usual.scored), round(attacked.value * attacked.scored)
    return (
        f"asked as usual it gives {given} of {usual.scored} answers that only who saw them knows, under some attack "
        f"{brought} of {attacked.scored}. By the measures below, "
    )


def _said(model: ModelFigures) -> str:
    if model.score is None or model.score.value is None:
        return (
            "nothing can be told: it had not forgotten these answers, the original never knew them either, or every "
            "attack ruined it."
        )
    worst = 1 - model.score.value
    low, high = (None if each is None else 1 - each for each in (model.score.high, model.score.low))
    span = "" if low is None or high is None else f" (between {max(low, 0):.0%} and {high:.0%})"
    known = "" if model.known is None or model.known.value is None else (
        f" Under the strongest attack the model shows {min(max(model.known.value, 0), 1):.0%} of what the original "
        "knows beyond one that never saw it."
    )  # fmt: skip
    return f"the strongest attack ({model.attack}) brought back {worst:.0%}{span} of what had been removed.{known}"


def _row(name: str, model: ModelFigures) -> list[str]:
    told = model.score is not None and model.score.value is not None
    strongest = f"{model.attack} ({model.measure})" if told else NOTHING
    return [name, _shown(model.score), strongest, _shown(model.plain), _shown(model.known)]


def _scores(result: Robustness, unlearned: Sequence[str]) -> TextTable:
    head = ["Model", "Robustness ↑", "Strongest attack", "Known, asked as usual", "Known, attacked ↓"]
    return TextTable(
        "Robustness: 1 - the highest excess recovery", head, [_row(n, result.models[n]) for n in unlearned]
    )


def _figures(name: str, model: ModelFigures) -> TextTable:
    head = [
        "Attack",
        "Measure",
        "Worst setting",
        "Before",
        "Under it",
        "Excess recovery",
        "Mean over settings",
        "Utility lost",
    ]
    rows = []
    for attack, found in model.attacks.items():
        if not found.worst:
            rows.append([attack, NOTHING, _why_none(found), *[NOTHING] * 5])
        for measure, outcome in found.worst.items():
            recovery = outcome.recovery
            before = NOTHING if outcome.own_scale else _shown(recovery.before)
            lost = NOTHING if outcome.utility_drop is None else f"{outcome.utility_drop:.1%}"
            excess = f"{_shown(recovery.excess)}, n {recovery.excess.scored} of {recovery.items}"
            mean = f"{found.mean[measure]:.3f}"
            rows.append([attack, measure, outcome.setting, before, _shown(recovery.after), excess, mean, lost])
    return TextTable(f"Attacks on {name}", head, rows)


def _why_none(found: AttackFigures) -> str:
    return RUINED if found.settings and found.collapsed == found.settings else "nothing was lost that could come back"


def _example(name: str, result: Robustness) -> TextTable:
    example = result.examples[name]
    rows = {"asked as usual": example.plain, **example.answers}
    title = f"{name}, the item of which most came back: {example.question} (true: {example.truth})"
    return TextTable(title, ["Attack", "Answer"], [[each, said or NOTHING] for each, said in rows.items()])


def headline(found: AttackFigures) -> Outcome | None:
    """An attack's outcome with the highest excess, of those that the score rests on."""
    counted = [each for each in found.worst.values() if each.own_scale or each.measure in HEADLINE]
    return max(counted, key=lambda each: each.recovery.excess.value or 0.0, default=None)


def _heat_map(result: Robustness, unlearned: Sequence[str]) -> Chart:
    attacks = list(dict.fromkeys(name for model in unlearned for name in result.models[model].attacks))
    cells = {(a, m): _cell(result.models[m].attacks, a) for a in attacks for m in unlearned}
    values = [[_value(cells[a, m]) for m in unlearned] for a in attacks]
    figure = go.Figure(layout={"template": "none"})
    figure.add_heatmap(
        z=values, x=[escape(name) for name in unlearned], y=[escape(name) for name in attacks], zmin=0, zmax=1,
        colorscale="Cividis", xgap=2, ygap=2, texttemplate="%{text}",
        text=[[NOTHING if value is None else f"{value:.2f}" for value in row] for row in values],
        customdata=[[_hover(cells[a, m]) for m in unlearned] for a in attacks],
        hovertemplate="%{y}, %{x}: %{customdata}<extra></extra>", colorbar={"title": "excess"},
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", automargin=True)
    told = "; ".join(f"{a}: {', '.join(f'{m} {_hover(cells[a, m])}' for m in unlearned)}" for a in attacks)
    return Chart(
        "attacks-heat", "Excess recovery, attack by model", f"Heat map of excess recovery. {told}.",
        plain_figure(figure), height_px=130 + 34 * len(attacks),
    )  # fmt: skip


def _cell(attacks: Mapping[str, AttackFigures], name: str) -> Outcome | None:
    return headline(attacks[name]) if name in attacks else None


def _value(outcome: Outcome | None) -> float | None:
    return None if outcome is None else outcome.recovery.excess.value


def _hover(outcome: Outcome | None) -> str:
    return NOTHING if outcome is None else f"{_shown(outcome.recovery.excess)} ({escape(outcome.setting)})"


def _curve(index: int, name: str, outcomes: Sequence[Outcome]) -> Chart | None:
    """Of the headline measure, over the steps of each training; None where nothing was trained."""
    lines: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.steps is not None and outcome.measure == HEADLINE[0]:
            lines.setdefault(outcome.setting.rpartition(",")[0], []).append(outcome)
    if not lines:
        return None
    figure = go.Figure(layout={"template": "none", "hovermode": "x unified"})
    for place, (setting, found) in enumerate(lines.items()):
        colour = UNLEARNED_COLOURS[place % len(UNLEARNED_COLOURS)]
        for arm, dash in (("recovered", "solid"), ("taught", "dot")):
            figure.add_scatter(
                x=[0, *(each.steps for each in found)], y=[0, *(getattr(each.recovery, arm).value for each in found)],
                name=escape(setting if arm == "recovered" else f"{setting}, retain model"), mode="lines+markers",
                line={"color": colour, "dash": dash, "width": 2}, hovertemplate="%{y:.3f}",
            )  # fmt: skip
    figure.update_xaxes(title="Steps")
    figure.update_yaxes(title="Recovered", automargin=True, rangemode="tozero")
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    alt = f"Recovery of {name} over the steps of {len(lines)} trainings, the retain model's dotted beside it."
    return Chart(f"attacks-curve-{index}", f"{name}: recovered by training", alt, plain_figure(figure), height_px=340)


def _shown(figure: Figure | None) -> str:
    if figure is None or figure.value is None:
        return NOTHING
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f}"
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
