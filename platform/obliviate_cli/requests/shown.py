"""What `obliviate request list`, `due` and `status` show: they read the ledger alone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.text import Text

from obliviate.config_file import load
from obliviate.console_table import ConsoleTable
from obliviate_cli.console import open_console
from obliviate_recipes.requests.clock import left
from obliviate_recipes.requests.ledger_spec import LedgerSpec, ToRead
from obliviate_recipes.requests.opening import open_ledger
from obliviate_recipes.requests.reading import Request
from obliviate_recipes.requests.states import RequestState

NOTHING = "–"
DUE = 4  # exit code of `request due` that found some
OPEN = (RequestState.PENDING, RequestState.RUNNING, RequestState.FAILED)  # nobody has been answered yet


def show(path: Path, overrides: list[str], state: RequestState | None, last: int) -> None:
    config, console = load(ToRead, path, overrides), open_console()
    ledger = open_ledger(config)
    table = ConsoleTable()
    for title in ("Request", "Requester", "Received", "Due", "Texts", "State", "Batch", "Why, or certificate"):
        table.add_column(title, justify="right" if title in {"Request", "Texts", "Batch"} else "left", overflow="fold")
    counts = ledger.counts(config.alias)
    shown = ledger.requests(config.alias, state=state, last=last or None)
    for each in shown:
        table.add_row(
            str(each.id), Text(each.requester), time_of(each.received_s), clock_of(each, config), str(len(each.hashes)),
            each.state,
            NOTHING if each.batch is None else str(each.batch),
            Text(each.reason or (NOTHING if each.certificate is None else Path(each.certificate).name)),
        )  # fmt: skip
    console.print(table)
    if hidden := (sum(counts.values()) if state is None else counts.get(state, 0)) - len(shown):
        console.print(f"{hidden} earlier ones are not shown: --last 0 shows all")
    console.print(", ".join(f"{counts[each]} {each}" for each in RequestState if each in counts) or "no requests")
    console.print(f"{config.alias}: {ledger.model_of(config.alias) or config.first_model}")


def due(path: Path, overrides: list[str], within_days: int) -> int:
    """The exit code: 0 where nothing is due so soon."""
    config, console = load(ToRead, path, overrides), open_console()
    last = datetime.now(UTC) + timedelta(days=within_days)
    urgent = [
        each
        for state in OPEN
        for each in open_ledger(config).requests(config.alias, state=state)
        if _until(each, config) <= last
    ]
    for each in sorted(urgent, key=lambda request: request.received_s):
        console.print(f"request {each.id} of {each.requester}: {each.state}, {clock_of(each, config)}")
    if not urgent:
        console.print(f"nothing is due within {within_days} days")
    return DUE if urgent else 0


def status(path: Path, overrides: list[str], number: int) -> None:
    config, console = load(ToRead, path, overrides), open_console()
    each = open_ledger(config).request(config.alias, number)
    for name, value in _details(each).items():
        console.print(f"{name:12} {value}")


def clock_of(each: Request, config: LedgerSpec) -> str:
    until = _until(each, config)
    if each.state not in OPEN:
        return until.strftime("%Y-%m-%d")
    return f"{until:%Y-%m-%d}, {left(until, datetime.now(UTC))}"


def _until(each: Request, config: LedgerSpec) -> datetime:
    return config.certificates.due(each.received_s, extended=each.extended is not None)


def _details(each: Request) -> dict[str, str]:
    return {
        "request": str(each.id),
        "requester": each.requester,
        "received": time_of(each.received_s),
        "state": each.state,
        "ended": NOTHING if each.ended_s is None else time_of(each.ended_s),
        "batch": NOTHING if each.batch is None else str(each.batch),
        "why": each.reason or NOTHING,
        "certificate": each.certificate or NOTHING,
        **{
            f"{note.kind}": f"{time_of(note.noted_s)}: " + "\n             ".join(note.lines.splitlines())
            for note in each.notes
        },
        "texts": "\n             ".join(each.hashes),
    }


def time_of(since_epoch_s: float) -> str:
    return datetime.fromtimestamp(since_epoch_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
