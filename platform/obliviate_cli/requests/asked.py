"""What `obliviate request init`, `add`, `retry`, `extend` and `refuse` write into the ledger."""

from pathlib import Path

from obliviate.config import load
from obliviate.errors import UserError
from obliviate.models import portable
from obliviate_cli.console import open_console
from obliviate_cli.requests.knowing import knowledge_of
from obliviate_cli.requests.shown import clock_of
from obliviate_recipes.requests import certificate
from obliviate_recipes.requests.asking import read_asked
from obliviate_recipes.requests.knowledge import repeats
from obliviate_recipes.requests.ledger import Asked
from obliviate_recipes.requests.opening import open_ledger
from obliviate_recipes.requests.refusal import write_refusal
from obliviate_recipes.requests.spec import RequestsRun


def init(path: Path, overrides: list[str]) -> None:
    config, console = load(RequestsRun, path, overrides), open_console()
    ledger = open_ledger(config, create=True)
    if not ledger.made:
        raise UserError(f"ledger: {ledger.name}: is there already ({ledger.identity}); `request add` adds to it")
    console.print(f"ledger: {ledger.name} ({ledger.identity})")


def add(
    path: Path, overrides: list[str], requester: str | None, texts: Path | None, entity: str | None, file: Path | None
) -> None:
    if (requester is None) == (file is None) or (file is not None and (texts or entity)):
        raise UserError("request: give --by ID with --texts FILE or --entity NAME, or --file FILE alone")
    config, console = load(RequestsRun, path, overrides), open_console()
    knowledge = knowledge_of(config, console)
    if file is not None:
        asked = read_asked(file, knowledge)
    else:
        assert requester is not None
        asked = [Asked(requester, knowledge.find(texts, entity))]
    ledger = open_ledger(config, create=True)
    if ledger.made:
        console.print(f"note: there was no ledger; made {ledger.name} ({ledger.identity})")
    taken = ledger.add_all(config.alias, portable(config.model).source, asked)
    count, left = sum(taken.values()), sum(len(set(each.hashes)) for each in asked) - sum(taken.values())
    note = f", {left} more are forgotten already" if left else ""
    if file is not None:
        console.print(f"requests {min(taken)} to {max(taken)}: {count} texts wait to be forgotten{note}")
        return
    (number,) = taken
    for each in repeats(asked[0].hashes):
        console.print(f"note: {each}")
    for other, shared in ledger.waiting_too(config.alias, number).items():
        console.print(f"note: {shared} of its texts wait in request {other} too")
    console.print(f"request {number}: {count} texts of {requester} wait to be forgotten{note}")


def retry(path: Path, overrides: list[str], number: int) -> None:
    config, console = load(RequestsRun, path, overrides), open_console()
    open_ledger(config).retry(config.alias, number)
    console.print(f"request {number}: waits again")


def extend(path: Path, overrides: list[str], number: int, reason: str) -> None:
    config, console = load(RequestsRun, path, overrides), open_console()
    ledger, issued = open_ledger(config), config.certificates
    request = ledger.request(config.alias, number)
    usual = issued.due(request.received_s, extended=False).timestamp()
    extended = ledger.extend(config.alias, number, reason, told_before_s=usual)
    console.print(f"request {number}: {clock_of(extended, config)}; tell {extended.requester} so, and why")


def refuse(path: Path, overrides: list[str], number: int, reason: str) -> None:
    config, console = load(RequestsRun, path, overrides), open_console()
    ledger = open_ledger(config)
    certificate.load_key(Path(config.key))
    known = ledger.identity
    notice = ledger.refuse(
        config.alias, number, reason, lambda request, now_s: write_refusal(config, known, request, reason, now_s)
    )
    console.print(f"request {number}: refused; the notice for its requester: {notice}")
