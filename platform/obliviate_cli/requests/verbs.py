"""What `obliviate request` and `obliviate certificate` do."""

from datetime import UTC, datetime
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from obliviate.config import load
from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate.models import portable
from obliviate_cli.console import Terminal, open_console
from obliviate_recipes.requests import certificate
from obliviate_recipes.requests.knowledge import Knowledge, repeats
from obliviate_recipes.requests.ledger import OPEN, LeaseLostError, Ledger, Request
from obliviate_recipes.requests.runner import Runner
from obliviate_recipes.requests.spec import RequestsRun
from obliviate_recipes.requests.states import RequestState

NOTHING = "–"


def add(path: Path, overrides: list[str], requester: str, texts: Path | None, entity: str | None) -> None:
    config, console = load(RequestsRun, path, overrides), open_console()
    knowledge = _knowledge(config, console)
    hashes = knowledge.find(texts, entity)
    ledger = Ledger(config.ledger)
    number = ledger.add(config.alias, portable(config.model).source, requester, hashes)
    for note in (*repeats(hashes), *_waiting_too(ledger, config.alias, number)):
        console.print(f"note: {note}")
    taken = len(ledger.request(config.alias, number).hashes)
    left = len(set(hashes)) - taken
    note = f", {left} more are forgotten already" if left else ""
    console.print(f"request {number}: {taken} texts of {requester} wait to be forgotten{note}")


def _waiting_too(ledger: Ledger, alias: str, number: int) -> list[str]:
    """Other requests that have not ended and are about some of the same texts."""
    asked = set(ledger.request(alias, number).hashes)
    others = {
        each.id: shared
        for each in ledger.requests(alias)
        if each.id != number and each.state in OPEN and (shared := len(asked & set(each.hashes)))
    }
    return [f"{shared} of its texts wait in request {other} too" for other, shared in others.items()]


def show(path: Path, overrides: list[str]) -> None:
    config, console = load(RequestsRun, path, overrides), open_console()
    ledger = Ledger(config.ledger)
    table = Table()
    for title in ("Request", "Requester", "Received", "Texts", "State", "Batch", "Why, or certificate"):
        table.add_column(title, justify="right" if title in {"Request", "Texts", "Batch"} else "left", overflow="fold")
    for each in ledger.requests(config.alias):
        table.add_row(
            str(each.id), Text(each.requester), _time(each.received_s), str(len(each.hashes)), each.state,
            NOTHING if each.batch is None else str(each.batch),
            Text(each.reason or (NOTHING if each.certificate is None else Path(each.certificate).name)),
        )  # fmt: skip
    console.print(table)
    console.print(f"{config.alias}: {ledger.model_of(config.alias) or portable(config.model).source}")


def status(path: Path, overrides: list[str], number: int) -> None:
    config, console = load(RequestsRun, path, overrides), open_console()
    each = Ledger(config.ledger).request(config.alias, number)
    for name, value in _details(each).items():
        console.print(f"{name:12} {value}")


def retry(path: Path, overrides: list[str], number: int) -> None:
    config, console = load(RequestsRun, path, overrides), open_console()
    Ledger(config.ledger).retry(config.alias, number)
    console.print(f"request {number}: waits again")


def run(path: Path, overrides: list[str], dry_run: bool) -> None:
    config, console = load(RequestsRun, path, overrides), open_console()
    certificate.load_key(Path(config.key))  # now, and not after hours of work
    knowledge, ledger = _knowledge(config, console), Ledger(config.ledger)
    if dry_run:
        console.print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        waiting = [each for each in ledger.requests(config.alias) if each.state is RequestState.PENDING]
        console.print(f"{len(waiting)} requests wait: {sum(len(each.hashes) for each in waiting)} texts")
        return
    from obliviate_recipes.requests.work import Recipes  # brings all that trains and measures: listing needs none of it

    events = Terminal(console)
    try:
        ended = Runner(config, ledger, knowledge, Recipes(config, events), events).run()
    except LeaseLostError as error:
        raise UserError(f"{error}; raise lease_s if this one was only slow") from error
    if not ended:
        running = any(each.state is RequestState.RUNNING for each in ledger.requests(config.alias))
        console.print("another runner is at work" if running else "nothing is due")


def make_key(path: Path) -> None:
    public = certificate.make_key(path)
    open_console().print(f"private key: {path} (keep it)\npublic key: {public} (give it to who checks certificates)")


def verify(path: Path, key: Path | None) -> None:
    console = open_console()
    statement, signer = certificate.verify(path, None if key is None else certificate.load_public_key(key))
    request = statement["request"]
    console.print(f"valid: {len(request['texts'])} texts of {request['requester']}, in service {statement['promoted']}")
    whose = "the given key" if key else "a key of its own: give --key to know whose it is"
    console.print(f"signed with {whose} ({signer})")


def _knowledge(config: RequestsRun, console: Console) -> Knowledge:
    """Checked against the policy, so that a wrong name is found before a request is taken."""
    corpus = config.data.load()
    for warning in corpus.warnings:
        console.print(f"warning: {warning}", style="yellow")
    kept = [(each.name, each.role) for each in corpus.evaluation if each.role is not Role.FORGET]
    config.policy.check(config.evaluation, kept, [attack.label for attack in config.attacks])
    return Knowledge.of(corpus)


def _details(each: Request) -> dict[str, str]:
    return {
        "request": str(each.id),
        "requester": each.requester,
        "received": _time(each.received_s),
        "state": each.state,
        "ended": NOTHING if each.ended_s is None else _time(each.ended_s),
        "batch": NOTHING if each.batch is None else str(each.batch),
        "why": each.reason or NOTHING,
        "certificate": each.certificate or NOTHING,
        "texts": "\n             ".join(each.hashes),
    }


def _time(since_epoch_s: float) -> str:
    return datetime.fromtimestamp(since_epoch_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
