"""`obliviate methods`, `obliviate metrics` and `obliviate attacks`: what there is, from the classes themselves."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from obliviate.config_file import nearest
from obliviate.errors import UserError
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


def key_of(name: str) -> str:
    """The config's key of an entry of BESIDE_ANY."""
    return re.split("[.:=]", name)[0]


def resistances() -> list[dict[str, Any]]:
    """Of each model that was measured, a row of docs/results.md."""
    found = json.loads((Path(__file__).parent / RESISTANCE_FILE).read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = found["models"]
    return rows


def methods(names: Sequence[str]) -> None:
    """All where no names are given."""
    console = open_console()
    measured = resistances()
    doors = {"FORGET OBJECTIVES": FORGET_DOOR, "REGULARIZERS": REGULARIZER_DOOR}
    beside = {"WITH ANY FORGET OBJECTIVE": BESIDE_ANY, "BESIDE TRAINING": BESIDE}
    found = {title: list(_offered(door, console)) for title, door in doors.items()}
    titles = {name: what for entries in beside.values() for name, (what, _) in entries.items()}
    parts = [part for name in names for part in ALIASES.get(name, name).split("+")]
    asked = _asked("methods", parts, titles | _titles(found))
    for title, classes in found.items():
        _head(console, title, asked & {name for name, _, _ in classes})
        for name, cls, place in classes:
            if name in asked:
                _method(console, name, cls, place, measured)
    for title, entries in beside.items():
        _head(console, title, asked & set(entries))
        for name, (what, source) in entries.items():
            if name in asked:
                console.print(f"  {name}: {what}; {source}")
                _attacked(console, [row for row in measured if row["beside"] == [key_of(name)]])
    console.print(
        "attacked: the share of what was lost that an attack brings back beyond what it teaches a model that never "
        "knew; robustness is 1 less the strongest. TOFU forget01, SmolLM2-135M, all within 0.1 nats of the start"
    )
    short = "; ".join(f"{name} stands for {long}" for name, long in ALIASES.items())
    console.print(f"Compose them as method=npo+gd, or in YAML with weights of their own; {short}.")
    console.print("One of your own: method=package.module.Class, see docs/adding-a-method.md.")


def _method(console: Console, name: str, cls: Any, place: str, measured: Sequence[dict[str, Any]]) -> None:
    console.print(f"  {name}: {cls.title}")
    console.print(f"      when        {cls.when}")
    console.print(f"      parameters  {_parameters(cls)}")
    console.print(f"      source      {cls.source}")
    _attacked(console, [row for row in measured if row["method"] == name and not row["beside"]])
    if place:
        console.print(f"      from        {place}")


def _attacked(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        console.print(f"      attacked    {_resisted(row)}")


def metrics(names: Sequence[str]) -> None:
    """And the suites; all where no names are given."""
    console = open_console()
    doors = {"METRICS": METRIC_DOOR, "COMPARISONS OF SETS OR MODELS": COMPARISON_DOOR}
    found = {title: list(_offered(door, console)) for title, door in doors.items()}
    asked = _asked("metrics", names, _titles(found) | {suite.name: suite.title for suite in SUITES.values()})
    for title, classes in found.items():
        _head(console, title, asked & {name for name, _, _ in classes})
        for name, cls, place in classes:
            if name in asked:
                _metric(console, name, cls, place)
    _head(console, "SUITES", asked & {suite.name for suite in SUITES.values()})
    for suite in SUITES.values():
        if suite.name in asked:
            console.print(f"  {suite.name}: {suite.title}")
            for aggregate in suite.aggregates:
                console.print(f"      {aggregate.name}: {aggregate.title}")


def _metric(console: Console, name: str, cls: Any, place: str) -> None:
    suites = [s.name for s in SUITES.values() if name in {each.type for each in (*s.metrics, *s.comparisons)}]
    console.print(f"  {name}: {cls.title}")
    console.print(f"      direction   {cls.direction}")
    console.print(f"      parameters  {_parameters(cls) or 'none'}")
    of_none = "a config's own" if place else "any, where evaluation.judge is given"
    console.print(f"      suites      {', '.join(suites) or of_none}")
    console.print(f"      source      {cls.source}")
    if place:
        console.print(f"      from        {place}")


def attacks(names: Sequence[str]) -> None:
    """All where no names are given."""
    from obliviate_recipes.attacks.spec import ATTACK_DOOR

    console = open_console()
    found = {"ATTACKS": list(_offered(ATTACK_DOOR, console))}
    asked = _asked("attacks", names, _titles(found))
    for name, cls, place in found["ATTACKS"]:
        if name not in asked:
            continue
        console.print(f"  {name}: {cls.title}")
        console.print(f"      parameters  {_parameters(cls)}")
        console.print(f"      source      {cls.source}")
        if cls.diagnosis:
            console.print("      counts      no: a diagnosis, beside the robustness score")
        if place:
            console.print(f"      from        {place}")


Entry = tuple[str, Any, str]  # name, class and, of what an installed package offers, whence


def _titles(found: Mapping[str, Sequence[Entry]]) -> dict[str, str]:
    return {name: cls.title for classes in found.values() for name, cls, _ in classes}


def _asked(verb: str, given: Sequence[str], titles: Mapping[str, str]) -> set[str]:
    """The names that are given, whole or as a part of a name or a title; all where none is given."""
    found: set[str] = set()
    for each in given:
        part = each.lower()
        whole = [name for name in titles if name.lower() == part]
        parts = [name for name, title in titles.items() if part in name.lower() or part in title.lower()]
        if not parts:
            raise UserError(f"{verb}: {each}: in no name or title; {nearest(each, list(titles))}")
        found.update(whole or parts)
    return found if given else set(titles)


def _head(console: Console, title: str, shown: set[str]) -> None:
    if shown:
        console.print(title, style="bold")


def _offered(door: Door, console: Console) -> Iterator[Entry]:
    """Prints what is wrong with what is not usable."""
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
