"""The figures as a table for a paper or a spreadsheet: CSV, LaTeX (booktabs) or Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from obliviate.runs import write_whole
from obliviate_eval.report.model import ModelReport
from obliviate_eval.statistics import Figure

Format = Literal["csv", "latex", "markdown"]
SUFFIXES: dict[Format, str] = {"csv": ".csv", "latex": ".tex", "markdown": ".md"}


def write_table(models: Sequence[ModelReport], path: Path, form: Format) -> Path:
    """Beside `path`, with the format's suffix; written whole."""
    path = path.with_suffix(SUFFIXES[form])
    text = _csv(models) if form == "csv" else _for_readers(models, form)
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def _csv(models: Sequence[ModelReport]) -> str:
    """A line a figure, in full precision, with its interval and counts, and its interval over seeds."""
    lines = [
        {"model": model.name, "kind": model.kind, "method": model.method, "set": of, "figure": name, **_cells(figure)}
        for model in models
        for of, name, figure in figures(model)
    ]
    return str(pd.DataFrame(lines).astype({"seeds": "Int64"}).to_csv(index=False))


def _for_readers(models: Sequence[ModelReport], form: Format) -> str:
    """A row a figure, a column a model: the value and its 95 % interval."""
    columns = {
        model.name: {f"{of} {name}".strip(): _cell(figure) for of, name, figure in figures(model)} for model in models
    }
    table = pd.DataFrame(columns).fillna("–")
    if form == "markdown":
        return f"{table.to_markdown()}\n"
    styled = table.rename(index=_escaped, columns=_escaped).style
    return str(styled.to_latex(hrules=True, column_format="l" + "r" * len(models)))


def figures(model: ModelReport) -> list[tuple[str, str, Figure]]:
    """(Set, or nothing where it is of all of them; name; figure) of everything that was measured."""
    found = model.evaluation
    of_sets = [(of, name, figure) for of, row in found.sets.items() for name, figure in row.items()]
    return [*of_sets, *(("", name, figure) for name, figure in {**found.comparisons, **found.aggregates}.items())]


def _cells(figure: Figure) -> dict[str, float | None]:
    plain = {key: value for key, value in vars(figure).items() if key != "over_seeds"}
    over = figure.over_seeds
    low, high, count = (None, None, None) if over is None else (over.low, over.high, over.count)
    return {**plain, "seeds": count, "seeds_low": low, "seeds_high": high}


def _cell(figure: Figure) -> str:
    if figure.value is None:
        return "–"
    interval = "" if figure.low is None or figure.high is None else f" [{figure.low:.3f}, {figure.high:.3f}]"
    over = figure.over_seeds
    seeds = "" if over is None or over.low is None else f" (seeds {over.low:.3f} to {over.high:.3f})"
    return f"{figure.value:.3f}{interval}{seeds}"


def _escaped(text: str) -> str:
    for character in "\\&%$#_{}":
        text = text.replace(character, r"\textbackslash{}" if character == "\\" else f"\\{character}")
    return text
