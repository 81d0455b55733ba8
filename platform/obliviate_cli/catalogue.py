"""`obliviate methods`, `obliviate metrics` and `obliviate attacks`: what there is, from the classes themselves."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from obliviate.guardrail import NOT_REMOVED
from obliviate.methods import ALIASES, FORGET_DOOR, REGULARIZER_DOOR
from obliviate.plugins import Door
from obliviate_cli.console import open_console
from obliviate_eval.metrics import COMPARISON_DOOR, METRIC_DOOR
from obliviate_eval.suites import SUITES

# What goes with any forget objective: key of `obliviate unlearn` -> (what it does, source).
BESIDE_ANY = {
    "pairing=nearest": ("each forget row with the retain rows nearest to it in meaning", "arXiv:2407.20271"),
    "early_drop.cosine=0.3": ("after each epoch, rows that are no longer answered are left out", "arXiv:2407.20271"),
    "stop: {}": ("after an epoch, training ends once the true tokens' margins are gone", "arXiv:2606.02920"),
    "forget_filter: {reference: {source: MODEL}}": (
        "rows that need no unlearning, near to what is kept",
        "arXiv:2501.16614",
    ),
    "updates=alternating": ("one update on the forget objective, then one on the regularizers", "arXiv:2406.12329v3"),
    "updates=dual": ("DualOptim: an optimiser state each for forgetting and for the regularizers", "arXiv:2504.15827"),
    "updates=dual_plus": ("DualOptim+: a base that both share, and what each differs by", "arXiv:2605.21539"),
    "sharpness.rho=0.01": ("sharpness-aware: the forget gradient where relearning is easiest", "arXiv:2502.05374"),
    "latent.layers=[8]": ("latent adversarial: the forget objective where hidden states tell most", "arXiv:2403.05030"),
    "projection.energy=0.95": ("projected: forget only where the retain set's inputs are not", "arXiv:2312.04095"),
    "kl_budget.nats=0.01": ("ends with the last step whose KL to the start is within a budget", "arXiv:2606.17168"),
    "validation: {}": ("the model of the step that is best on held-out rows, with early stopping by patience", "ours"),
    "rectification.share=0.8": (
        "GRU: the forget gradient, less what of it runs against the regularizers'",
        "arXiv:2503.09117",
    ),
    "quantisation.to=int4_g128": (
        "the forget objective of weights rounded to 4 bits, straight through",
        "arXiv:2605.02196",
    ),
    "tampering: {}": (
        "TAR: the forget objective along attacks that fine-tune the model on forget rows",
        "arXiv:2408.00761",
    ),
    "sanitisation.strength=1": (
        "after training: what the retain set's inputs see of the change, taken out of it",
        "arXiv:2606.18309",
    ),
    "undo.share=0.25": (
        "UNDO: after training, distils the model into a noised copy of itself",
        "arXiv:2506.06278",
    ),
    "stability.rho=0.01": (
        "StableUN: forget here and nearby, less what runs against the regularizers",
        "arXiv:2509.20230",
    ),
    "layers.folds=3": (
        "layered: one fold of the forget set after another, those to come kept",
        "arXiv:2505.09500",
    ),
}
# Verbs and keys that do without a forget objective's training, or with one for each request.
BESIDE = {
    "obliviate fuse": ("an adapter for each request, fused in closed form from Gram matrices", "arXiv:2310.20150"),
    "obliviate erase": ("examples in the prompt that are forgotten exactly (ERASE)", "arXiv:2402.00751"),
    "guardrail: {type: prompt}": (f"of a model that is measured or served; {NOT_REMOVED}", "arXiv:2403.03329"),
    "guardrail: {type: in_context}": (f"the same for models of icku; {NOT_REMOVED}", "arXiv:2410.00382"),
}


RESISTANCE_FILE = "resistance.json"  # what benchmarks/resistance.py has measured


def resistances() -> list[dict[str, Any]]:
    """Of each model that was measured, a row of docs/results.md."""
    found = json.loads((Path(__file__).parent / RESISTANCE_FILE).read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = found["models"]
    return rows


def methods() -> None:
    console = open_console()
    measured = resistances()
    for title, door in (("FORGET OBJECTIVES", FORGET_DOOR), ("REGULARIZERS", REGULARIZER_DOOR)):
        console.print(title, style="bold")
        for name, cls, place in _all(door, console):
            console.print(f"  {name}: {cls.title}")
            console.print(f"      when        {cls.when}")
            console.print(f"      parameters  {_parameters(cls)}")
            console.print(f"      source      {cls.source}")
            for row in measured:
                if row["method"] == name and not row["beside"]:
                    console.print(f"      attacked    {_resisted(row)}")
            if place:
                console.print(f"      from        {place}")
    for title, found in (("WITH ANY FORGET OBJECTIVE", BESIDE_ANY), ("BESIDE TRAINING", BESIDE)):
        console.print(title, style="bold")
        for name, (what, source) in found.items():
            console.print(f"  {name}: {what}; {source}")
            for row in measured:
                if [re.split("[.:=]", name)[0]] == row["beside"]:
                    console.print(f"      attacked    {_resisted(row)}")
    console.print(
        "attacked: the share of what was lost that an attack brings back beyond what it teaches a model that never "
        "knew; robustness is 1 less the strongest. TOFU forget01, SmolLM2-135M, all within 0.1 nats of the start"
    )
    short = "; ".join(f"{name} stands for {long}" for name, long in ALIASES.items())
    console.print(f"Compose them as method=npo+gd, or in YAML with weights of their own; {short}.")
    console.print("One of your own: method=package.module.Class, see docs/adding-a-method.md.")


def metrics() -> None:
    console = open_console()
    for title, door in (("METRICS", METRIC_DOOR), ("COMPARISONS OF SETS OR MODELS", COMPARISON_DOOR)):
        console.print(title, style="bold")
        for name, cls, place in _all(door, console):
            suites = [s.name for s in SUITES.values() if name in {each.type for each in (*s.metrics, *s.comparisons)}]
            console.print(f"  {name}: {cls.title}")
            console.print(f"      direction   {cls.direction}")
            console.print(f"      parameters  {_parameters(cls) or 'none'}")
            of_none = "a config's own" if place else "any, where evaluation.judge is given"
            console.print(f"      suites      {', '.join(suites) or of_none}")
            console.print(f"      source      {cls.source}")
            if place:
                console.print(f"      from        {place}")
    console.print("SUITES", style="bold")
    for suite in SUITES.values():
        console.print(f"  {suite.name}: {suite.title}")
        for aggregate in suite.aggregates:
            console.print(f"      {aggregate.name}: {aggregate.title}")


def attacks() -> None:
    from obliviate_recipes.attacks.spec import ATTACK_DOOR

    console = open_console()
    for name, cls, place in _all(ATTACK_DOOR, console):
        console.print(f"  {name}: {cls.title}")
        console.print(f"      parameters  {_parameters(cls)}")
        console.print(f"      source      {cls.source}")
        if cls.diagnosis:
            console.print("      counts      no: a diagnosis, beside the robustness score")
        if place:
            console.print(f"      from        {place}")


def _all(door: Door, console: Console) -> Iterator[tuple[str, Any, str]]:
    """Name, class and, of what an installed package offers, whence; prints what is wrong with what is not usable."""
    yield from ((name, cls, "") for name, cls in door.ours.items())
    for name, (cls, place) in door.offers().items():
        if isinstance(cls, str):
            console.print(f"  not usable: {cls}; from {place}", style="yellow")
        else:
            yield name, cls, place


def _resisted(row: dict[str, Any]) -> str:
    """Of a row of `resistances`."""
    back = ", ".join(f"{attack} {values[0]:.2f}" for attack, values in row["excess"].items())
    score, low, high = row["robustness"]
    return f"{row['model']}: {back}; robustness {score:.2f} ({low:.2f} to {high:.2f})"


def _parameters(cls: Any) -> str:
    return ", ".join(f"{name}={_shown(field.default)}" for name, field in cls.model_fields.items() if name != "type")


def _shown(value: Any) -> str:
    return value.value if hasattr(value, "value") else str(value)
