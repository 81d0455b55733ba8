"""The comparison as a table in the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from obliviate.data.rows import Role
from obliviate_eval.report.model import ModelReport
from obliviate_eval.statistics import Figure

NOTHING = "–"


def print_table(models: Sequence[ModelReport], console: Console) -> None:
    """One row a model: what it forgot, what it kept, and whether it is told from one that never knew.

    Model utility is the suite's own, or else TOFU's. Forget and retain show the first set of that role.
    """
    table = Table(caption="below each figure its 95 % bootstrap interval; below FQ's p-value the KS statistic")
    table.add_column("Model", overflow="fold")
    table.add_column("Method", overflow="fold")
    for title in ("FE ↑", "MU ↑", "FQ ↑"):
        table.add_column(title, justify="right")
    for role in ("Forget", "Retain"):
        table.add_column(f"{role}\nROUGE", justify="right")
        table.add_column(f"{role}\nprob.", justify="right")
    for model in models:
        found = model.evaluation.aggregates
        means = [_means(model, role) for role in (Role.FORGET, Role.RETAIN)]
        table.add_row(
            Text(model.name),
            Text(model.method or NOTHING),
            _cell(found.get("forget_efficacy")),
            _cell(found.get("model_utility", found.get("tofu_model_utility"))),
            _quality(model),
            *(_cell(each.get(metric)) for each in means for metric in ("rouge", "probability")),
        )
    console.print(table)


def _means(model: ModelReport, role: Role) -> dict[str, Figure]:
    roles = model.evaluation.roles
    return next((figures for name, figures in model.evaluation.sets.items() if roles[name] is role), {})


def _cell(figure: Figure | None) -> Text:
    if figure is None or figure.value is None:
        return Text(NOTHING)
    cell = Text(f"{figure.value:.3f}")
    if figure.low is not None and figure.high is not None:
        cell.append(f"\n{figure.low:.2f}–{figure.high:.2f}", style="dim")
    return cell


def _quality(model: ModelReport) -> Text:
    quality = model.evaluation.forget_quality
    if quality is None:
        return Text(NOTHING)
    return Text(f"{quality.p_value:.2g}").append(f"\nKS {quality.statistic:.2f}", style="dim")
