"""What a sweep leaves behind: the ranked configurations, the commands that reproduce them, report and table."""

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.text import Text

from obliviate import storage
from obliviate.console_table import ConsoleTable
from obliviate.runs import write_json, write_whole
from obliviate_eval.report.sweep import SURVIVES, Configuration, Ended, Mixed, SweepReport, build_sweep_report
from obliviate_eval.report.sweep_picture import draw_front
from obliviate_eval.robustness import ModelFigures, Robustness
from obliviate_eval.statistics import Figure, Spread
from obliviate_recipes.events import Events
from obliviate_recipes.reporting import REPORT, REPORT_JSON
from obliviate_recipes.sweeps.front import Pair, hypervolume
from obliviate_recipes.sweeps.ranking import Ranked, choose, rank, regions
from obliviate_recipes.sweeps.records import TrialRecord, read_records
from obliviate_recipes.sweeps.spec import SweepRun

BASE = "unlearn.yaml"  # what all trials' configs share, in the sweep's folder
PICTURE = "front.svg"


@dataclass(frozen=True)
class Calibrated:
    """A trial's model at `share` of the way from the original (0) to what the trial made of it (1)."""

    trial: str
    method: str
    share: float
    forget: float
    utility: float
    model: str  # folder


@dataclass(frozen=True)
class Result:
    config: SweepRun
    directory: Path
    source: str  # of the model that must forget
    original: Pair  # its figures
    records: tuple[TrialRecord, ...]
    ranked: tuple[Ranked, ...]
    chosen: Ranked | None
    calibrated: tuple[Calibrated, ...] = ()
    full: Robustness | None = None  # of all attacks on the models of the front, by trial

    @classmethod
    def of(cls, config: SweepRun, directory: Path, source: str, original: Pair) -> "Result":
        """From the records in the sweep's folder."""
        records = tuple(read_records(directory))
        ranked = tuple(rank(records, len(config.seeds)))
        return cls(config, directory, source, original, records, ranked, choose(ranked, config.choose, original[1]))

    @property
    def hypervolume(self) -> float:
        """Of the front."""
        return hypervolume([each.figures for each in self.ranked if each.on_front])

    def command(self, record: TrialRecord) -> str:
        """What makes this trial's model alone: it lands in the same run."""
        return shlex.join(["obliviate", "unlearn", storage.name(self.directory / BASE), *record.trial.overrides])


def write_result(result: Result, events: Events) -> None:
    """The common config, the report as HTML and as JSON, the front as a picture, and a table on the terminal."""
    base = {**result.config.base(result.source), "runs": storage.name(storage.local(result.config.runs))}
    text = yaml.safe_dump(base, sort_keys=False, allow_unicode=True)
    write_whole(result.directory / BASE, lambda path: path.write_text(text, encoding="utf-8"))
    report = _report(result)
    build_sweep_report(report, result.directory / REPORT)
    draw_front(report, result.directory / PICTURE)
    write_json(result.directory / REPORT_JSON, _json(result))
    events.shown(_table(result))
    for region in report.regions:
        forgotten = f"{region.least:.3f}" + ("" if region.most == region.least else f" to {region.most:.3f}")
        events.said(f"utility {region.low:.3f} to {region.high:.3f}: {region.method} forgets most, {forgotten}")
    for each in result.calibrated:
        events.said(f"at equal utility: {each.method} forget {each.forget:.3f}, utility {each.utility:.3f}")
    unmeasured = [record for record in result.records if record.status in ("failed", "crashed")]
    for record in unmeasured:
        events.warned(f"{record.id} {record.status}: {record.cause}")
    if result.chosen is None:
        events.said(f"no configuration meets choose.type={result.config.choose.type}")
    else:
        events.said(f"chosen: {result.command(result.chosen.trials[0])}")
    events.said(f"picture of the front: {storage.name(result.directory / PICTURE)}")
    events.said(f"report: {storage.name(result.directory / REPORT)}")


def _report(result: Result) -> SweepReport:
    names = result.config.objectives
    notes = ["Intervals are 95 % Student t intervals over seeds; a configuration with one seed has none."]
    if any(record.status == "stopped" for record in result.records):
        notes.append("Trials that the scheduler stopped were not measured: a front without them may miss points.")
    if short := sum(not each.complete for each in result.ranked):
        notes.append(f"Not measured with every seed, and so not on the front: {short} of the configurations.")
    if result.config.robustness is not None:
        notes.append(
            "Survives: 1 - the highest excess recovery of the sweep's attacks, beside the retain model; the front is "
            "of three figures."
        )
        if result.full is not None:
            notes.append("All attacks: the robustness score of the front's models under all attacks, the first seed's.")
    return SweepReport(
        title=result.config.title,
        forget=names.forget,
        utility=names.utility,
        original=result.original,
        hypervolume=result.hypervolume,
        rule=result.config.choose.type,
        configurations=[
            Configuration(
                name=each.point.id,
                method=each.point.method,
                values=each.point.values,
                forget=_figure(each.forget),
                utility=_figure(each.utility),
                survives=None if each.survives is None else _figure(each.survives),
                full=None if (full := _full(result, each)) is None else full.score,
                on_front=each.on_front,
                chosen=each is result.chosen,
                commands=[result.command(trial) for trial in each.trials],
            )
            for each in result.ranked
        ],
        regions=regions(result.ranked),
        others=[
            Ended(record.id, record.method, record.values, record.status, record.steps, record.cause)
            for record in result.records
            if record.status != "done"
        ],
        mixed=[Mixed(each.method, each.trial, each.share, each.forget, each.utility) for each in result.calibrated],
        notes=notes,
    )


def _full(result: Result, each: Ranked) -> ModelFigures | None:
    """Of all attacks on its first seed's model."""
    return None if result.full is None else result.full.models.get(each.trials[0].id)


def _figure(found: Spread) -> Figure:
    return Figure(value=found.mean, low=found.low, high=found.high, scored=found.count, unscored=0)


def _json(result: Result) -> dict[str, Any]:
    return {
        "title": result.config.title,
        "objectives": result.config.objectives.model_dump(),
        "original": {"forget": result.original[0], "utility": result.original[1]},
        "hypervolume": result.hypervolume,
        "chosen": None if result.chosen is None else result.chosen.point.id,
        "configurations": [
            {
                "id": each.point.id,
                "method": each.point.method,
                "values": dict(each.point.values),
                "forget": asdict(each.forget),
                "utility": asdict(each.utility),
                "survives": None if each.survives is None else asdict(each.survives),
                "full": None if (full := _full(result, each)) is None else asdict(full),
                "complete": each.complete,
                "on_front": each.on_front,
                "commands": [result.command(trial) for trial in each.trials],
            }
            for each in result.ranked
        ],
        "regions": [asdict(each) for each in regions(result.ranked)],
        "calibrated": [asdict(each) for each in result.calibrated],
        "trials": [{key: value for key, value in asdict(record).items() if key != "signals"}
                   for record in result.records],
    }  # fmt: skip


def _table(result: Result) -> ConsoleTable:
    names = result.config.objectives
    table = ConsoleTable(
        title=f"{result.config.title}: {sum(each.on_front for each in result.ranked)} of {len(result.ranked)} "
        f"configurations on the front, hypervolume {result.hypervolume:.4f}",
        caption=f"original: {names.forget} {result.original[0]:.3f}, {names.utility} {result.original[1]:.3f}",
    )
    for title in ("Trial", "Method", "Parameters"):
        table.add_column(title, overflow="fold")
    third = result.config.robustness is not None
    for title in (names.forget, names.utility, *([SURVIVES] if third else []), "seeds", ""):
        table.add_column(title.replace("_", " "), justify="right")
    for each in result.ranked:
        mark = "chosen" if each is result.chosen else "front" if each.on_front else ""
        values = " ".join(f"{name}={value}" for name, value in each.point.values.items())
        survives = [] if not third else ["–" if each.survives is None else _cell(each.survives)]
        cells = (_cell(each.forget), _cell(each.utility), *survives, f"{len(each.trials)}", mark)
        table.add_row(each.trials[0].id, each.point.method, Text(values), *cells)
    return table


def _cell(found: Spread) -> str:
    interval = "" if found.low is None or found.high is None else f"\n{found.low:.2f}–{found.high:.2f}"
    return f"{found.mean:.3f}{interval}"
