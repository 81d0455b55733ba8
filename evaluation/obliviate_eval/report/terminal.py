"""The comparison as a table in the terminal."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from obliviate.console_table import ConsoleTable
from obliviate.data.rows import Role
from obliviate_eval.paired import Differences
from obliviate_eval.report.model import ModelReport
from obliviate_eval.statistics import Figure

NOTHING = "–"
COLUMNS = {"forget_efficacy", "model_utility", "tofu_model_utility"}  # the aggregates that the comparison shows
ROOM_FOR_INTERVALS = 100  # columns: a narrower terminal would cut them in two
BEYOND = (
    "FE also rewards answers less likely than a model that never knew gives: below it, how far it is from that one's"
)


class Comparison:
    """The models side by side, as rich renders it: with intervals where there is room."""

    def __init__(self, models: Sequence[ModelReport]) -> None:
        self._models = models

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The comparison, and a table of every figure where the suite has some that it has no column for."""
        models = self._models
        shown = [COLUMNS.intersection(model.evaluation.aggregates) for model in models]
        if any(shown):
            yield _comparison(models, roomy=options.max_width >= ROOM_FOR_INTERVALS)
        if not all(shown) or any(model.evaluation.comparisons for model in models):
            yield _figures(models)


def _comparison(models: Sequence[ModelReport], *, roomy: bool) -> ConsoleTable:
    """One row a model: does it say the facts, what it forgot, what it kept, and is it told from one that never knew?

    Model utility is the suite's own, or else TOFU's. Forget and retain show the first set of that role.
    """
    intervals = "below each figure its 95 % bootstrap interval" if roomy else "intervals: in the report"
    beyond = beyond_retain(models) if roomy else {}
    table = ConsoleTable(
        caption=f"{intervals}; below FQ's p-value the KS statistic" + (f"\n{BEYOND}" if beyond else "")
    )
    table.add_column("Model", overflow="fold")
    says_more = any(model.method not in (None, model.name) for model in models)
    if says_more:
        table.add_column("Method", overflow="fold")
    means = [[model.figures_of(role) for role in (Role.FORGET, Role.RETAIN)] for model in models]
    says = any("key_said" in forget for forget, _ in means)
    if says:
        table.add_column("Facts\nsaid ↓", justify="right")
    for title in ("FE ↑", "MU ↑", "FQ ↑"):
        table.add_column(title, justify="right")
    for role in ("Forget", "Retain"):
        table.add_column(f"{role}\nROUGE", justify="right")
        table.add_column(f"{role}\nprob.", justify="right")
    for model, of_roles in zip(models, means, strict=True):
        found = model.evaluation.aggregates
        table.add_row(
            Text(model.name),
            *([Text(model.method or NOTHING)] if says_more else []),
            *([_cell(of_roles[0].get("key_said"), roomy)] if says else []),
            _cell(found.get("forget_efficacy"), roomy).append(beyond.get(model.name, ""), style="dim"),
            _cell(found.get("model_utility", found.get("tofu_model_utility")), roomy),
            _quality(model),
            *(_cell(each.get(metric), roomy) for each in of_roles for metric in ("rouge", "probability")),
        )
    return table


def _figures(models: Sequence[ModelReport]) -> ConsoleTable:
    """One row a figure, one column a model."""
    table = ConsoleTable(caption="behind each figure its 95 % bootstrap interval, and how many items were scored")
    table.add_column("")
    for model in models:
        table.add_column(Text(model.name), justify="right", overflow="fold")
    rows = [_named(model) for model in models]
    for title in dict.fromkeys(title for row in rows for title in row):
        table.add_row(title, *(_counted(row.get(title)) for row in rows))
    return table


def differences_table(differences: Differences) -> ConsoleTable:
    """Second model less first: one row a figure."""
    table = ConsoleTable(
        caption="p: permutation test, sign test, and the first adjusted over all metrics (Benjamini-Hochberg)"
    )
    for title in ("", "difference", "95 % interval", "p perm.", "p sign", "p adj.", "pairs"):
        table.add_column(title, justify="left" if title == "" else "right")
    named = {f"{name} {metric}": each for name, row in differences.sets.items() for metric, each in row.items()}
    for title, each in {**named, **differences.comparisons, **differences.aggregates}.items():
        interval = NOTHING if each.low is None or each.high is None else f"{each.low:+.3f} to {each.high:+.3f}"
        p_values = (each.p_permutation, each.p_sign, each.p_adjusted)
        table.add_row(
            title,
            NOTHING if each.value is None else f"{each.value:+.4f}",
            interval,
            *(NOTHING if p is None else f"{p:.2g}" for p in p_values),
            f"{each.paired}" + (f" ({each.unpaired} not)" if each.unpaired else ""),
        )
    return table


def _named(model: ModelReport) -> dict[str, Figure]:
    found = model.evaluation
    of_sets = {f"{name} {metric}": figure for name, row in found.sets.items() for metric, figure in row.items()}
    return {**of_sets, **found.comparisons, **found.aggregates}


def _counted(figure: Figure | None) -> Text:
    if figure is None:
        return Text(NOTHING)
    counts = f"n {figure.scored}" + (f", {figure.unscored} unscored" if figure.unscored else "")
    return _cell(figure, with_interval=True).append(f"\n{counts}", style="dim")


def _cell(figure: Figure | None, with_interval: bool) -> Text:
    if figure is None or figure.value is None:
        return Text(NOTHING)
    cell = Text(f"{figure.value:.3f}")
    if with_interval and figure.low is not None and figure.high is not None:
        cell.append(f"\n{figure.low:.2f}–{figure.high:.2f}", style="dim")
    seeds = figure.over_seeds
    if with_interval and seeds is not None and seeds.low is not None and seeds.high is not None:
        cell.append(f"\nseeds {seeds.low:.2f}–{seeds.high:.2f}", style="dim")
    return cell


def beyond_retain(models: Sequence[ModelReport]) -> dict[str, str]:
    """By the model's name: a line with its forget efficacy less the retain model's; empty where there is none."""
    found = {model.name: model.evaluation.aggregates.get("forget_efficacy") for model in models}
    values = {name: figure.value for name, figure in found.items() if figure is not None and figure.value is not None}
    never_knew = next((values.get(model.name) for model in models if model.kind == "retain"), None)
    others = [model.name for model in models if model.kind != "retain" and model.name in values]
    return {} if never_knew is None else {name: f"\n{values[name] - never_knew:+.2f}" for name in others}


def _quality(model: ModelReport) -> Text:
    quality = model.evaluation.forget_quality
    if quality is None:
        return Text(NOTHING)
    return Text(f"{quality.p_value:.2g}").append(f"\nKS {quality.statistic:.2f}", style="dim")
