"""Obliviate from Python: the recipes of the command line as functions, with the same runs on disk.

from obliviate_recipes import evaluate, unlearn

after = unlearn(model, method="me+gd", forget=rows, retain=others)
found = evaluate({"before": model, "after": after}, forget=rows, retain=others)
found.figures, found.records
"""

from obliviate.errors import UserError
from obliviate_recipes.events import QUIET, Bars, Events
from obliviate_recipes.face import attack, compare, dry_run, evaluate, finetune, run, sweep, unlearn

__all__ = [
    "QUIET",
    "Bars",
    "Events",
    "UserError",
    "attack",
    "compare",
    "dry_run",
    "evaluate",
    "finetune",
    "run",
    "sweep",
    "unlearn",
]
