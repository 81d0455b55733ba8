"""One command for each recipe: load the config, then show what it comes to, or do it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from obliviate_cli.mistakes import names_file
from obliviate_recipes.catalogue import RECIPES, load

if TYPE_CHECKING:
    from obliviate_recipes.recipe import Recipe

Config = Annotated[Path, typer.Argument(help="YAML file with the run's config; see configs/.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example optim.epochs=3.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved config and the plan, and stop.")]


def command(name: str) -> Callable[..., None]:
    """`name` is one of RECIPES."""

    @names_file
    def run(config: Config, overrides: Overrides = None, dry_run: DryRun = False) -> None:
        follow(load(name, config, overrides or []), dry_run)

    run.__doc__ = RECIPES[name].what
    return run


def follow(recipe: "Recipe[Any, Any]", dry_run: bool) -> None:
    import yaml

    from obliviate_cli.console import Terminal

    terminal = Terminal()
    if not dry_run:
        from obliviate_recipes.tracking.tracker import tracked

        with tracked(recipe.config, terminal) as events:
            recipe.perform(events)
        return
    lines = list(recipe.outline())  # what is wrong is told instead of the config
    terminal.said(yaml.safe_dump(recipe.config.model_dump(mode="json"), sort_keys=False))
    for line in lines:
        terminal.said(line)
