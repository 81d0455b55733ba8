"""What a command waits for before it says its first word: what it loads, never how long that takes."""

from modules import loaded_by
from obliviate_recipes.catalogue import RECIPES

COMPUTES = ("torch", "transformers", "ray", "vllm", "scipy", "sklearn", "pandas", "nltk", "peft")
SWEEPS = ("sweep", "sweep-attack")  # made of Ray Tune's own classes


def test_a_config_is_read_without_what_trains_and_measures() -> None:
    """What is wrong with it is told at once."""
    places = [entry.place for name, entry in RECIPES.items() if name not in SWEEPS]
    modules = [f"obliviate_recipes.{place.partition(':')[0]}" for place in places]
    assert loaded_by(", ".join(modules), COMPUTES) == []


def test_commands_that_only_read_load_nothing_heavy() -> None:
    commands = "obliviate_cli.catalogue, obliviate_cli.plan_command, obliviate_cli.requests.worked"
    assert loaded_by(commands, COMPUTES) == []


def test_a_ledger_is_shown_without_what_could_be_done() -> None:
    assert loaded_by("obliviate_cli.requests.shown", ("numpy", "obliviate.config", "obliviate_eval")) == []


def test_a_certificate_is_verified_without_ledger_or_config() -> None:
    assert loaded_by("obliviate_cli.requests.certificates", ("sqlalchemy", "obliviate.config", "numpy")) == []
