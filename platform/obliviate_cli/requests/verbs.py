"""What `obliviate request` does."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from rich.console import Console
from rich.text import Text

from obliviate import storage
from obliviate.config import load
from obliviate.console_table import ConsoleTable
from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate.models import portable
from obliviate_cli.console import Terminal, open_console
from obliviate_recipes.requests import backup, certificate
from obliviate_recipes.requests.asking import read_asked
from obliviate_recipes.requests.clock import left
from obliviate_recipes.requests.knowledge import Knowledge, repeats
from obliviate_recipes.requests.ledger import Asked, HeldError, LeaseLostError, Ledger
from obliviate_recipes.requests.opening import check, open_ledger
from obliviate_recipes.requests.purge import Purger
from obliviate_recipes.requests.reading import Request
from obliviate_recipes.requests.refusal import write_refusal
from obliviate_recipes.requests.restoring import restore_ledger
from obliviate_recipes.requests.runner import Runner
from obliviate_recipes.requests.spec import RequestsRun
from obliviate_recipes.requests.states import RequestState

NOTHING = "–"
HELD = 3  # exit code of a run that found another runner at work
DUE = 4  # of `request due` that found some
OPEN = (RequestState.PENDING, RequestState.RUNNING, RequestState.FAILED)  # nobody has been answered yet


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
    knowledge = _knowledge(config, console)
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


def show(path: Path, overrides: list[str], state: RequestState | None, last: int) -> None:
    config, console = load(RequestsRun, path, overrides), open_console()
    ledger = open_ledger(config)
    table = ConsoleTable()
    for title in ("Request", "Requester", "Received", "Due", "Texts", "State", "Batch", "Why, or certificate"):
        table.add_column(title, justify="right" if title in {"Request", "Texts", "Batch"} else "left", overflow="fold")
    counts = ledger.counts(config.alias)
    shown = ledger.requests(config.alias, state=state, last=last or None)
    for each in shown:
        table.add_row(
            str(each.id), Text(each.requester), _time(each.received_s), _clock(each, config), str(len(each.hashes)),
            each.state,
            NOTHING if each.batch is None else str(each.batch),
            Text(each.reason or (NOTHING if each.certificate is None else Path(each.certificate).name)),
        )  # fmt: skip
    console.print(table)
    if hidden := (sum(counts.values()) if state is None else counts.get(state, 0)) - len(shown):
        console.print(f"{hidden} earlier ones are not shown: --last 0 shows all")
    console.print(", ".join(f"{counts[each]} {each}" for each in RequestState if each in counts) or "no requests")
    console.print(f"{config.alias}: {ledger.model_of(config.alias) or config.model.source}")


def due(path: Path, overrides: list[str], within_days: int) -> int:
    """The exit code: 0 where nothing is due so soon."""
    config, console = load(RequestsRun, path, overrides), open_console()
    last = datetime.now(UTC) + timedelta(days=within_days)
    urgent = [
        each
        for state in OPEN
        for each in open_ledger(config).requests(config.alias, state=state)
        if _until(each, config) <= last
    ]
    for each in sorted(urgent, key=lambda request: request.received_s):
        console.print(f"request {each.id} of {each.requester}: {each.state}, {_clock(each, config)}")
    if not urgent:
        console.print(f"nothing is due within {within_days} days")
    return DUE if urgent else 0


def status(path: Path, overrides: list[str], number: int) -> None:
    config, console = load(RequestsRun, path, overrides), open_console()
    each = open_ledger(config).request(config.alias, number)
    for name, value in _details(each).items():
        console.print(f"{name:12} {value}")


def extend(path: Path, overrides: list[str], number: int, reason: str) -> None:
    config, console = load(RequestsRun, path, overrides), open_console()
    ledger, issued = open_ledger(config), config.certificates
    request = ledger.request(config.alias, number)
    usual = issued.due(request.received_s, extended=False).timestamp()
    extended = ledger.extend(config.alias, number, reason, told_before_s=usual)
    console.print(f"request {number}: {_clock(extended, config)}; tell {extended.requester} so, and why")


def refuse(path: Path, overrides: list[str], number: int, reason: str) -> None:
    config, console = load(RequestsRun, path, overrides), open_console()
    ledger = open_ledger(config)
    certificate.load_key(Path(config.key))
    known = ledger.identity
    notice = ledger.refuse(
        config.alias, number, reason, lambda request, now_s: write_refusal(config, known, request, reason, now_s)
    )
    console.print(f"request {number}: refused; the notice for its requester: {notice}")


def purge(path: Path, overrides: list[str], numbers: list[int], dry_run: bool) -> None:
    config, console = load(RequestsRun, path, overrides), open_console()
    knowledge, ledger = _knowledge(config, console), open_ledger(config)
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


def retry(path: Path, overrides: list[str], number: int) -> None:
    config, console = load(RequestsRun, path, overrides), open_console()
    open_ledger(config).retry(config.alias, number)
    console.print(f"request {number}: waits again")


def run(path: Path, overrides: list[str], dry_run: bool, wait: bool) -> int:
    """The exit code."""
    config, console = load(RequestsRun, path, overrides), open_console()
    certificate.load_key(Path(config.key))  # now, and not after hours of work
    knowledge, ledger = _knowledge(config, console), open_ledger(config)
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


def export(path: Path, overrides: list[str], file: Path) -> None:
    """Also of a ledger that knows less than the alias file does: it may be all that is left."""
    config, console = load(RequestsRun, path, overrides), open_console()
    ledger = Ledger(config.ledger)
    number = backup.export(ledger, storage.local(file))
    console.print(f"{file}: {number} requests of {ledger.name} ({ledger.identity})")


def restore(path: Path, overrides: list[str], file: Path | None, certificates: list[Path], keys: list[Path]) -> None:
    if file is None and not certificates:
        raise UserError("request: give a backup, or --certificates FOLDER, or both")
    config, console = load(RequestsRun, path, overrides), open_console()
    own = certificate.load_key(Path(config.key)).public_key() if certificates else None
    known = [*([] if own is None else [own]), *map(certificate.load_public_key, keys)]
    ledger = Ledger(config.ledger, create=True)
    signers = [certificate.signer(each) for each in known]
    restored, met = restore_ledger(ledger, config.alias, file, certificates, signers)
    console.print(f"ledger: {ledger.name} ({ledger.identity})")
    console.print(f"{restored} requests of the backup; certificates say of {met} more that they are met")
    check(config, ledger)


def _knowledge(config: RequestsRun, console: Console) -> Knowledge:
    """Checked against the policy, so that a wrong name is found before a request is taken."""
    corpus = config.data.load()
    for warning in corpus.warnings:
        console.print(f"warning: {warning}", style="yellow")
    kept = [(each.name, each.role) for each in corpus.evaluation if each.role is not Role.FORGET]
    config.policy.check(config.evaluation, kept, [attack.label for attack in config.attacks])
    return Knowledge.of(corpus)


def _clock(each: Request, config: RequestsRun) -> str:
    until = _until(each, config)
    if each.state not in OPEN:
        return until.strftime("%Y-%m-%d")
    return f"{until:%Y-%m-%d}, {left(until, datetime.now(UTC))}"


def _until(each: Request, config: RequestsRun) -> datetime:
    return config.certificates.due(each.received_s, extended=each.extended is not None)


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
        **{
            f"{note.kind}": f"{_time(note.noted_s)}: " + "\n             ".join(note.lines.splitlines())
            for note in each.notes
        },
        "texts": "\n             ".join(each.hashes),
    }


def _time(since_epoch_s: float) -> str:
    return datetime.fromtimestamp(since_epoch_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
