"""Every method on TOFU forget01: what it forgets, what it keeps, what a step costs. Writes docs/methods.md's table.

SmolLM2-135M-Instruct learns TOFU as configs/tofu/smollm2_forget01.yaml says; every method then unlearns forget01 with
that file's settings and its own published defaults. Nothing is tuned: a method that collapses here is shown collapsing.
Step times are those of the runs' own logs, as medians over the steps after the first; methods run one after the other,
so read small differences between them with care. Extraction strength is Carlini's, as OpenUnlearning computes it: the
share of an answer's tokens, counted from its end, that the teacher-forced model predicts greedily without a mistake.

    python benchmarks/methods_table.py --write data.source=FOLDER evaluation.nli=FOLDER runs=FOLDER
    python benchmarks/methods_table.py --controlled --write data.source=FOLDER evaluation.nli=FOLDER runs=FOLDER

The second makes a table of its own: what goes with any method, around NPO+GD, and what needs more than forget and
retain rows.

Without --quick, TOFU comes from data.source, the hub by default; `runs` keeps finished stages for another try. With
--quick, invented people stand for TOFU, and no NLI model judges.

JSON keys: of each method METHOD_model_utility, _forget_efficacy, _forget_quality_log10_p, _extraction_strength,
_step_time_ratio (to GA+GD) with _low and _high, _peak_bytes; of the models before and without, target_ and retain_.
"""

import argparse
import json
import re
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from statistics import fmean, median
from typing import Any

from _methods import BASELINE, CONTROLLED, METHODS, QUICK
from rich.console import Console

from obliviate.config import load
from obliviate.data.rows import Role
from obliviate.runs import provenance, write_whole
from obliviate.train.log import read_steps
from obliviate_cli.console import Terminal
from obliviate_eval.records import RECORDS_FILE, Probe, Record, read_records
from obliviate_eval.summary import Evaluation
from obliviate_recipes.comparison import Compare, CompareRun
from obliviate_recipes.reporting import machine

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "tofu" / "smollm2_forget01.yaml"
DOCUMENT = ROOT / "docs" / "methods.md"
# Of forget01, in its order.
AUTHORS = "data.authors=[Basil Mahfouz Al-Kuwaiti, Nikolai Abilov]"
QUICK_OVERRIDES = (
    "data={type: fictitious, people: 4, forget_people: 1, questions_per_person: 4, eval_retain_limit: 4}",
    "finetune.optim.epochs=1", "optim.epochs=2", "optim.batch_size=2", "evaluation.nli=null",
    "evaluation.generation.max_new_tokens=8",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What was found of one model; None where it can't be computed. A model that was not unlearned took no step."""

    name: str
    model_utility: float | None
    forget_efficacy: float | None
    forget_quality_log10_p: float | None
    extraction_strength: float | None
    step_s: tuple[float, ...]  # of the optimiser steps after the first
    peak_bytes: int | None


def extraction_strength(record: Record) -> float | None:
    """Of the true answer: 1 - k / T, the T - k last of its T tokens being all argmaxima; None where none is known."""
    (answer,) = record.answers.get(Probe.ANSWER, (None,))
    if answer is None or not answer.greedy or not all(map(isfinite, answer.logp)):
        return None
    wrong = [place for place, right in enumerate(answer.greedy, 1) if not right]
    return 1 - max(wrong, default=0) / len(answer.greedy)


def row(model: dict[str, Any], runs: Path) -> Row:
    """From the report's entry on a model, its records, and the log of the run that made it."""
    evaluation = Evaluation.model_validate(model["evaluation"])
    utility, efficacy = (evaluation.aggregates[name].value for name in ("model_utility", "forget_efficacy"))
    quality = evaluation.forget_quality
    (evaluated,) = runs.glob(f"evaluate-*-{model['provenance']['evaluation']['content'][:10]}")
    forget = [record for record in read_records(evaluated / RECORDS_FILE) if record.role is Role.FORGET]
    strengths = [value for record in forget if (value := extraction_strength(record)) is not None]
    steps = read_steps(Path(model["provenance"]["model"]).parent) if model["kind"] == "unlearned" else []
    return Row(
        name=model["name"],
        model_utility=utility,
        forget_efficacy=efficacy,
        forget_quality_log10_p=None if quality is None else quality.log10_p,
        extraction_strength=fmean(strengths) if strengths else None,
        step_s=tuple(step["tokens"] / step["tokens_per_s"] for step in steps[1:]),
        peak_bytes=max((step["peak_memory_bytes"] for step in steps), default=None),
    )


def ratio(row: Row, baseline: Row) -> tuple[float, float, float] | None:
    """Of the step times: median, lowest and highest to the baseline's median."""
    if not row.step_s:
        return None
    unit = median(baseline.step_s)
    return median(row.step_s) / unit, min(row.step_s) / unit, max(row.step_s) / unit


def table(rows: list[Row], title: str) -> str:
    """Markdown."""
    baseline = next(each for each in rows if each.name.lower() == BASELINE)
    found = provenance()
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        f"{title}. {datetime.now(UTC):%Y-%m-%d}, revision {found['git_revision']}, {machine()}; {versions}.",
        "",
        "| model | MU | FE | forget quality, log10 p | extraction strength | step time, GA+GD = 1 | peak memory, GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in rows:
        relative = ratio(each, baseline)
        cells = [
            each.name,
            _shown(each.model_utility, ".3f"),
            _shown(each.forget_efficacy, ".3f"),
            _shown(each.forget_quality_log10_p, ".2f"),
            _shown(each.extraction_strength, ".3f"),
            "–" if relative is None else f"{relative[0]:.2f} ({relative[1]:.2f} to {relative[2]:.2f})",
            _shown(None if each.peak_bytes is None else each.peak_bytes / 2**30, ".2f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figures(rows: list[Row]) -> dict[str, float | None]:
    baseline = next(each for each in rows if each.name.lower() == BASELINE)
    named: dict[str, float | None] = {}
    for each in rows:
        key = re.sub(r"\W+", "_", each.name.lower())
        named[f"{key}_model_utility"] = each.model_utility
        named[f"{key}_forget_efficacy"] = each.forget_efficacy
        named[f"{key}_forget_quality_log10_p"] = each.forget_quality_log10_p
        named[f"{key}_extraction_strength"] = each.extraction_strength
        if (relative := ratio(each, baseline)) is not None:
            names = ("step_time_ratio", "step_time_ratio_low", "step_time_ratio_high")
            named |= {f"{key}_{name}": value for name, value in zip(names, relative, strict=True)}
            named[f"{key}_peak_bytes"] = each.peak_bytes
    return named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"invented people, only {', '.join(QUICK)}")
    parser.add_argument("--json", action="store_true", help="only the last line; progress goes to standard error")
    parser.add_argument("--controlled", action="store_true", help="the second table instead of the first")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCUMENT.relative_to(ROOT)}")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the config, after the above")
    arguments = parser.parse_args()
    methods = CONTROLLED if arguments.controlled else QUICK if arguments.quick else METHODS
    with tempfile.TemporaryDirectory() as folder:
        size = QUICK_OVERRIDES if arguments.quick else (AUTHORS,) if arguments.controlled else ()
        given = [f"runs={folder}", f"methods=[{', '.join(methods)}]", *size, *arguments.overrides]
        config = load(CompareRun, CONFIG, given)
        report = Compare(config).perform(Terminal(Console(stderr=True, soft_wrap=True)))
        models = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))["models"]
        rows = [row(model, Path(config.runs)) for model in models]
    text = table(rows, config.title)
    print(text, file=sys.stderr)
    if arguments.write:
        write_table(text, "controlled" if arguments.controlled else "measured")
    print(json.dumps(figures(rows)))


def write_table(text: str, name: str) -> None:
    """Into the document, between the two marks of this name."""
    marks = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, begin, rest = DOCUMENT.read_text(encoding="utf-8").partition(marks[0])
    _, end, after = rest.partition(marks[1])
    assert end, f"{DOCUMENT}: no {' and '.join(marks)}"
    whole = f"{before}{begin}\n{text}\n{end}{after}"
    write_whole(DOCUMENT, lambda path: path.write_text(whole, encoding="utf-8"))


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


if __name__ == "__main__":
    main()
