"""The recipes by the names of their commands. Reading it imports none of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obliviate.errors import UserError

if TYPE_CHECKING:
    from obliviate_recipes.recipe import Recipe


@dataclass(frozen=True)
class Entry:
    """Where a recipe is, what it does, and the config keys by which it is recognised."""

    place: str  # module:class in this package
    what: str
    keys: tuple[str, ...]

    def load(self) -> "type[Recipe[Any, Any]]":
        module, _, name = self.place.partition(":")
        found: type[Recipe[Any, Any]] = getattr(import_module(f"{__package__}.{module}"), name)
        return found


# A config with keys of several recipes is for the first of them.
RECIPES: Mapping[str, Entry] = {
    "attack": Entry(
        "attacking:Attacks", "Is it really gone? Attack unlearned models beside one that never knew.", ("attacks",)
    ),
    "compare": Entry(
        "comparison:Compare", "Fine-tune, unlearn with several methods, evaluate all models, and report.", ("methods",)
    ),
    "continual": Entry(
        "continual:Continual", "Unlearn one forget set after another, and measure all of them after every step.", ()
    ),
    "sweep": Entry(
        "sweeps.recipe:Sweep", "Run the trials that are not done yet, and report the front. The same as sweep CONFIG.",
        ("space",),
    ),
    "sweep-attack": Entry(
        "worst_case.recipe:WorstCase",
        "Search an attack's settings for the worst case: what `sweep` does with kind: attack.",
        (),
    ),
    "evaluate": Entry(
        "evaluation:Evaluate", "Measure models side by side: what was removed, what was kept.", ("models",)
    ),
    "make-questions": Entry(
        "questions:MakeQuestions",
        "Write questions and answers about an entity and its neighbours, for unlearning the entity.",
        ("writer",),
    ),
    "snap": Entry(
        "snap.recipe:Snap",
        "Forget an entity, given its name and texts: negative instructions, hard positives, and training on them.",
        ("entity",),
    ),
    "fuse": Entry(
        "fuse:Fuse", "Unlearn several requests, each with its own adapter, and fuse the adapters into one model.",
        ("requests", "adapters"),
    ),
    "erase": Entry(
        "erase:Erase", "Teach a task by examples in the prompt, forget some exactly, and report the cost.",
        ("examples",),
    ),
    "unlearn": Entry("train:UnlearnRecipe", "Remove the forget set from a model.", ("method",)),
    "probe-knowledge": Entry(
        "probe:Probe",
        "Find the questions that a model can answer, so that forgetting is measured on known facts.",
        ("answers", "nli"),
    ),
    "finetune": Entry(
        "train:FinetuneRecipe", "Teach a model the data: all of it, or all but the forget set (a retain model).",
        ("train_on", "optim"),
    ),
}  # fmt: skip


def recipe_of(path: Path) -> str:
    """The name of the one that a config file is for. Raises UserError where no key tells."""
    from obliviate.config_file import read

    return named_by(read(path), str(path))


def named_by(values: Mapping[str, Any], where: str) -> str:
    """As `recipe_of`, of a config's keys; `where` is named in errors."""
    if _of_attack(values):
        return "sweep-attack"
    found = next((name for name, entry in RECIPES.items() if any(key in values for key in entry.keys)), None)
    if found is None:
        raise UserError(f"{where}: no key tells which verb it is for; say --verb, one of {', '.join(RECIPES)}")
    data = values.get("data")
    several = isinstance(data, Mapping) and str(data.get("type")).endswith("_tasks")
    return "continual" if found == "compare" and several else found


def load(name: str, path: Path, overrides: Sequence[str]) -> "Recipe[Any, Any]":
    """What a config file comes to. `name` is one of RECIPES. Raises UserError."""
    from obliviate import config_file

    values = config_file.read(path)  # what is wrong with the file is told before a recipe is imported
    if name == "sweep" and _of_attack(values):
        name = "sweep-attack"
    recipe = RECIPES[name].load()
    return recipe(config_file.load(recipe.takes, path, overrides))


def _of_attack(values: Mapping[str, Any]) -> bool:
    """Whether a sweep's config searches the settings of an attack."""
    return values.get("kind") == "attack"
