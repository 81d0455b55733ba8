"""Which recipe a config is for. Its keys say so: a job is submitted by its config alone."""

from pathlib import Path

from obliviate.config_file import read
from obliviate.errors import UserError
from obliviate_recipes.catalogue import RECIPES


def recipe_of(path: Path) -> str:
    """Its name. Raises UserError where no key tells."""
    values = read(path)
    found = next((name for name, entry in RECIPES.items() if any(key in values for key in entry.keys)), None)
    if found is None:
        raise UserError(f"{path}: no key tells which verb it is for; say --verb, one of {', '.join(RECIPES)}")
    data = values.get("data")
    several = isinstance(data, dict) and str(data.get("type")).endswith("_tasks")
    return "continual" if found == "compare" and several else found
