"""What attacks bring back of what each method removed, all methods at one budget of divergence from the start.

The config stops each training at its last step within the budget. Per method: what the stopping left of it (steps, KL),
what it costs (seconds and memory of a step, of one round: on a busy machine more), what is said and kept, and how much
of what was lost each attack brings back beyond what it teaches a model that never knew.

    python benchmarks/resistance.py data.source=TOFU_FOLDER runs=FOLDER   # keeps finished stages for another try
    python benchmarks/resistance.py ... --write   # and tells it to `obliviate methods`
    python benchmarks/resistance.py --quick       # two methods on invented people

What counts against us: a method that resists by `obliviate methods` and is not in this table; a composition of ours
that is no better than the best published method within the intervals.

JSON keys: of each model ROBUSTNESS, and RELEARN, FRAME, the excess recovered by relearning and behind the answer's own
frame; models, the number of models.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import obliviate_cli
from obliviate.config_file import load
from obliviate.runs import provenance
from obliviate.train.log import read_steps
from obliviate_cli.catalogue import BESIDE_ANY, RESISTANCE_FILE, key_of
from obliviate_cli.console import Terminal
from obliviate_eval.robustness import PLAIN, ROBUSTNESS_FILE, ModelFigures, Robustness
from obliviate_eval.statistics import Figure
from obliviate_eval.summary import METRICS_FILE, Evaluation
from obliviate_recipes.attacking import AttackRun, Attacks
from obliviate_recipes.reporting import machine
from obliviate_recipes.stages.measure import Figures

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "attacks" / "smollm2_kl_budget.yaml"
QUICK = [
    "methods=[me+gd, npo+gd]", "data={type: fictitious, people: 6, questions_per_person: 4, forget_people: 2}",
    "finetune={optim: {learning_rate: 1.0e-4, epochs: 5, batch_size: 8, micro_batch_size: 8}}",
    "kl_budget={nats: 0.1, rows: 4, every_steps: 2}",
]  # fmt: skip


@dataclass(frozen=True)
class Row:
    """Of one model. Figures as (value, low, high)."""

    model: str
    method: str  # type of the forget objective; empty of the control models
    beside: tuple[str, ...]  # keys that go with any objective
    steps: int | None
    kl: float | None
    step_s: float | None
    memory_bytes: int | None
    said: tuple[float, ...]
    kept: tuple[float, ...]
    excess: dict[str, tuple[float, ...]]  # attack -> worst within the budget of utility
    inside: tuple[float, ...]
    robustness: tuple[float, ...]


def rows(recipe: Attacks, folder: Path) -> Iterator[Row]:
    config, result = recipe.config, Robustness.read(folder / ROBUSTNESS_FILE)
    plain = {each.records.name: each.run.directory for each in recipe.stages if isinstance(each, Figures)}
    runs = [run for method in config.methods for run in config.unlearnings(method, "")]
    trained = {config.called(run): run for run in runs}
    made = {target.name: target for target in recipe.targets}
    for name, directory in plain.items():
        run = trained.get(name)
        log = read_steps(made[name].needs[0].run.directory) if name in made else []
        held = [line for line in log if line.get("held_out", {}).get("chosen")]
        figures = result.models[name]
        of_model = Evaluation.read(directory / METRICS_FILE).sets
        yield Row(
            model=name,
            method="" if run is None else run.method.type,
            beside=() if run is None else tuple(key for key in _keys() if getattr(run, key) is not None),
            steps=held[-1]["step"] if held else None,
            kl=held[-1]["held_out"].get("kl") if held else None,
            step_s=_median([line["tokens"] / line["tokens_per_s"] for line in log[1:]]),
            memory_bytes=max((line["peak_memory_bytes"] or 0 for line in log), default=None),
            said=_of(of_model["forget"]["key_said"]),
            kept=_of(of_model["retain"]["probability"]),
            excess=dict(_excess(figures)),
            inside=next((_of(each.recovery.known) for each in result.outcomes[name] if each.measure == "patch"), ()),
            robustness=_of(figures.score) if figures.score is not None else (),
        )


def _keys() -> list[str]:
    """Of a run, what goes with any forget objective, how its steps are cut aside."""
    return [
        name
        for name in dict.fromkeys(map(key_of, BESIDE_ANY))
        if name not in ("kl_budget", "validation", "pairing", "updates")
    ]


def _excess(figures: ModelFigures) -> Iterator[tuple[str, tuple[float, ...]]]:
    for attack, found in figures.attacks.items():
        measure = "key_said" if attack == "ask" else "key_probability"
        if attack != PLAIN and measure in found.worst and not found.worst[measure].diagnosis:
            yield attack, _of(found.worst[measure].recovery.excess)


def _of(figure: Figure) -> tuple[float, ...]:
    values = (figure.value, figure.low, figure.high)
    return tuple(round(each, 3) for each in values if each is not None)


def _median(values: list[float]) -> float | None:
    return round(sorted(values)[len(values) // 2], 2) if values else None


def table(found: list[Row]) -> Iterator[str]:
    attacks = list(dict.fromkeys(attack for row in found for attack in row.excess))
    heads = ["model", "steps", "KL", "facts said", "retain prob.", *attacks, "inside", "robustness", "s a step", "GiB"]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in found:
        cells = [
            row.model, _shown(row.steps), _shown(row.kl), _interval(row.said), _interval(row.kept),
            *(_interval(row.excess.get(attack, ())) for attack in attacks), _interval(row.inside),
            _interval(row.robustness), _shown(row.step_s),
            _shown(None if not row.memory_bytes else round(row.memory_bytes / 2**30, 1)),
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}" if isinstance(value, float) else str(value)


def _interval(figure: tuple[float, ...]) -> str:
    value, *ends = figure or (None,)
    if value is None:
        return "–"
    return f"{value:.2f}" + (f" ({ends[0]:.2f} to {ends[1]:.2f})" if len(ends) == 2 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two methods on invented people")
    parser.add_argument("--json", action="store_true", help="only the last line; progress goes to standard error")
    parser.add_argument("--write", action="store_true", help="tell it to `obliviate methods`")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of configs/attacks/smollm2_kl_budget.yaml")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"runs={folder}", *(QUICK if arguments.quick else []), *arguments.overrides]
        recipe = Attacks(load(AttackRun, CONFIG, overrides))
        report = recipe.perform(Terminal(Console(stderr=True, soft_wrap=True)))
        found = list(rows(recipe, report.parent))
    revision = provenance()["git_revision"]
    print(f"revision {revision}, {machine()}", file=sys.stderr)
    print("\n".join(table(found)), file=sys.stderr)
    if arguments.write:
        told = [asdict(row) for row in found if row.method and row.robustness]
        values = {"revision": revision, "machine": machine(), "models": told}
        path = Path(obliviate_cli.__file__).parent / RESISTANCE_FILE
        path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    named: dict[str, Any] = {"models": len(found)}
    for row in found:
        named |= {f"{row.model} {attack}": value[0] for attack, value in row.excess.items() if value}
        named |= {f"{row.model} robustness": row.robustness[0]} if row.robustness else {}
    print(json.dumps(named))


if __name__ == "__main__":
    main()
