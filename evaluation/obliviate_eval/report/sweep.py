"""One HTML file about a sweep: the front, the parameters of every configuration, and the commands that reproduce them.

Built like the report on models, with its style, its script and its content security policy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from obliviate.runs import write_whole
from obliviate_eval.report.build import HERE, environment, label, plotly_script, script_hash
from obliviate_eval.report.plots import Look, looks
from obliviate_eval.report.sweep_plots import front_charts, parallel_coordinates
from obliviate_eval.statistics import Figure

SURVIVES = "survives"  # 1 - what attacks bring back


@dataclass(frozen=True)
class Configuration:
    """One measured point of the space. Figures are means over seeds; `scored` counts the seeds. `survives`: None of a
    sweep that attacks nothing; `full`: the robustness score under all attacks, of the front's models."""

    name: str
    method: str
    values: Mapping[str, Any]
    forget: Figure
    utility: Figure
    on_front: bool
    chosen: bool
    commands: Sequence[str]  # one a seed
    survives: Figure | None = None
    full: Figure | None = None


@dataclass(frozen=True)
class Ended:
    """A trial without figures, and why."""

    name: str
    method: str
    values: Mapping[str, Any]
    status: str
    steps: int
    cause: str


@dataclass(frozen=True)
class Mixed:
    """A method's model at the needed utility: `share` of the way from the original to the unlearned one."""

    method: str
    name: str
    share: float
    forget: float
    utility: float


@dataclass(frozen=True)
class Region:
    """Where a method wins: of what was measured, nothing with a utility above `low` and up to `high` forgets more."""

    method: str  # several where their figures are equal
    low: float  # the utility of the front's next point, 0 after the last
    high: float  # the highest of its own
    least: float  # forgotten at `high`
    most: float  # forgotten just above `low`


@dataclass(frozen=True)
class SweepReport:
    title: str
    forget: str  # name of the figure
    utility: str
    original: tuple[float, float]
    hypervolume: float
    rule: str
    configurations: Sequence[Configuration]
    regions: Sequence[Region]
    others: Sequence[Ended] = ()
    mixed: Sequence[Mixed] = ()
    notes: Sequence[str] = field(default=())

    @property
    def attacked(self) -> bool:
        """Whether the front has a third figure."""
        return any(each.survives is not None for each in self.configurations)


def build_sweep_report(report: SweepReport, path: Path) -> None:
    """Write it whole."""
    look = looks_of(report)
    methods = [each.name for each in look]
    charts = [*front_charts(report, look), parallel_coordinates(report, look)]
    script = (HERE / "report.js").read_text(encoding="utf-8")
    plotly_hash, plotly = plotly_script()
    html = (
        environment()
        .get_template("sweep.html.j2")
        .render(
            report=report,
            looks=look,
            place={method: index for index, method in enumerate(methods)},
            forget=label(report.forget),
            utility=label(report.utility),
            survives=SURVIVES,
            charts=charts,
            data={
                "charts": {chart.id: chart.figure for chart in charts},
                "models": [{"name": each.name, "colour": each.colour} for each in look],
            },
            style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hashes=[script_hash(script), plotly_hash],
            plotly=plotly,
        )
    )
    write_whole(path, lambda temporary: temporary.write_text(html, encoding="utf-8") and None)


def looks_of(report: SweepReport) -> list[Look]:
    """Of each method, the measured ones first."""
    methods = dict.fromkeys(each.method for part in (report.configurations, report.others) for each in part)
    return looks([(method, "unlearned") for method in methods])
