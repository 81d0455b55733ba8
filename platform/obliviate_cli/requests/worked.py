"""What `obliviate request run` and `purge` do: they work off the ledger."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import yaml

from obliviate.config import load
from obliviate.errors import UserError
from obliviate_cli.console import Terminal, open_console
from obliviate_cli.requests.knowing import knowledge_of
from obliviate_recipes.requests import certificate
from obliviate_recipes.requests.ledger import HeldError, LeaseLostError
from obliviate_recipes.requests.opening import open_ledger
from obliviate_recipes.requests.purge import Purger
from obliviate_recipes.requests.runner import Runner
from obliviate_recipes.requests.spec import RequestsRun
from obliviate_recipes.requests.states import RequestState

HELD = 3  # exit code of a run that found another runner at work


def run(path: Path, overrides: list[str], dry_run: bool, wait: bool) -> int:
    """The exit code."""
    config, console = load(RequestsRun, path, overrides), open_console()
    certificate.load_key(Path(config.key))  # now, and not after hours of work
    knowledge, ledger = knowledge_of(config, console), open_ledger(config)
    if dry_run:
        # As the ledger calls itself: without a password.
        shown = {**config.model_dump(mode="json"), "ledger": ledger.name}
        console.print(yaml.safe_dump(shown, sort_keys=False))
        waiting = ledger.counts(config.alias).get(RequestState.PENDING, 0)
        console.print(f"{waiting} requests wait: {ledger.texts_waiting(config.alias)} texts")
        return 0
    from obliviate_recipes.requests.work import Recipes  # brings all that trains and measures: listing needs none of it
    from obliviate_recipes.tracking.tracker import tracked

    try:
        with tracked(config, Terminal(console)) as events:
            ended = Runner(config, ledger, knowledge, Recipes(config, events), events).run(wait=wait)
    except LeaseLostError as error:
        raise UserError(f"{error}; raise lease_s if this one was only slow") from error
    except HeldError as error:
        print(f"error: {error}; --wait waits for it", file=sys.stderr)
        return HELD
    if not ended:
        console.print("nothing is due")
    return 0


def purge(path: Path, overrides: list[str], numbers: list[int], dry_run: bool) -> None:
    config, console = load(RequestsRun, path, overrides), open_console()
    knowledge, ledger = knowledge_of(config, console), open_ledger(config)
    purger = Purger(config, ledger, knowledge)
    due = purger.due(datetime.now(UTC).timestamp(), numbers)
    if not due:
        console.print(f"nothing to purge: no request was fulfilled {config.retention.days:g} days ago or earlier")
    for each in purger.find(due):
        if not dry_run:
            purger.remove(each)
        for line in purger.told(each, "would go" if dry_run else "removed"):
            console.print(f"request {each.request.id}: {line}", soft_wrap=True)
    if due and config.tracking is not None:
        console.print("reports that were sent elsewhere (tracking, a hub) are not reached", style="yellow")
