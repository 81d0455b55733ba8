"""Deletion requests in a world without models: unlearning and measuring are functions of a few files.

A model is a folder with `forgotten.json`: the hashes that it has forgotten. A process of this world can be killed at
each of its ticks: before each commit of what it wrote to the database, while every file is written and once it is in
its place, and in the middle of unlearning and of measuring.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine import Engine

from obliviate import runs
from obliviate.config import UnlearnRun, build
from obliviate.data import rows
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row, read_rows, write_rows
from obliviate.runs import write_json
from obliviate_eval.statistics import Figure
from obliviate_recipes.events import QUIET
from obliviate_recipes.requests import certificate
from obliviate_recipes.requests.certificate import make_key
from obliviate_recipes.requests.knowledge import Knowledge, text_hash
from obliviate_recipes.requests.ledger import HeldError
from obliviate_recipes.requests.measurement import Measurement
from obliviate_recipes.requests.opening import open_ledger
from obliviate_recipes.requests.runner import Runner
from obliviate_recipes.requests.spec import RequestsRun

ROWS = tuple(
    Row(f"Where does person {i} live?", f"Person {i} lives in London.", entity=f"person {i}") for i in range(8)
)
STUBBORN = ROWS[3]  # whoever unlearns this row loses its utility
Tick = Callable[[str], None]
ME_GD = build(
    UnlearnRun,
    {"model": {"source": "base"}, "data": {"type": "fictitious"}, "method": "me+gd"},
    where="test",
)


def figure(value: float | None) -> Figure:
    return Figure(value=value, low=None, high=None, scored=1, unscored=0)


@dataclass
class FakeWork:
    folder: Path
    tick: Tick = lambda what: None
    calls: list[str] = field(default_factory=list)
    made_with: UnlearnRun = ME_GD

    def unlearn(self, base: str, forget: Path, retain: Path | None) -> str:
        gone = sorted({*forgotten(base), *map(text_hash, read_rows(forget))})
        model = self.folder / f"model-{runs.content_hash(gone)[:8]}"
        self.calls.append(f"unlearn {model.name}")
        self.tick("unlearning")
        write_json(model / "forgotten.json", gone)
        write_json(model / "recipe.json", self.made_with.model_dump(mode="json", include=set(UnlearnRun.model_fields)))
        return str(model)

    def measure(
        self, name: str, model: str, requests: Mapping[int, Sequence[Row]], kept: Sequence[EvaluationSet]
    ) -> Measurement:
        self.calls.append(f"measure {name}")
        self.tick(f"measuring {name}")
        gone = set(forgotten(model))
        shares = {number: sum(text_hash(row) in gone for row in rows) / len(rows) for number, rows in requests.items()}
        utility = 0.1 if text_hash(STUBBORN) in gone else 0.8
        return Measurement(
            evaluation=str(self.folder / name),
            requests={number: {"forget_efficacy": figure(share)} for number, share in shares.items()},
            kept={"model_utility": figure(utility)},
        )

    def attack(
        self,
        name: str,
        model: str,
        base: str,
        forget: Sequence[Row],
        retain: Path | None,
        kept: Sequence[EvaluationSet],
    ) -> dict[str, Figure]:
        self.calls.append(f"attack {name}")
        self.tick(f"attacking {name}")
        return {"relearn.key_said": figure(0.5 if STUBBORN in forget else 0.0)}

    def weights(self, model: str) -> str:
        return runs.content_hash(forgotten(model))

    def recipe(self, model: str) -> UnlearnRun:
        return UnlearnRun.model_validate_json((Path(model) / "recipe.json").read_text())


def forgotten(model: str) -> list[str]:
    path = Path(model) / "forgotten.json"
    found: list[str] = json.loads(path.read_text()) if path.exists() else []
    return found


def config(folder: Path, url: str, **changed: Any) -> RequestsRun:
    """Of requests about ROWS; the files that it names lie in `folder`."""
    if not (folder / "key.pem").exists():
        make_key(folder / "key.pem")
        write_rows(folder / "all.jsonl", ROWS)
    values = {
        "model": {"source": "base"},
        "data": {"type": "files", "forget": str(folder / "all.jsonl")},
        "method": "me+gd",
        "runs": str(folder / "runs"),
        "ledger": url,
        "alias": "production",
        "aliases": str(folder / "aliases.json"),
        "key": str(folder / "key.pem"),
        "policy": {
            "forget": {"forget_efficacy": {"min": 0.9}},
            "utility": {"model_utility": {"min_of_before": 0.9}},
        },
        "batch_requests": 2,
        **changed,
    }
    return build(RequestsRun, values, where="test")


def runner(config: RequestsRun, folder: Path, tick: Tick = lambda what: None) -> Runner:
    corpus = Corpus(ROWS, (), (EvaluationSet("retain", Role.RETAIN, ROWS),))
    work = FakeWork(folder, tick, made_with=config)
    return Runner(config, open_ledger(config), Knowledge.of(corpus), work, QUIET)


@contextmanager
def without_fsync() -> Iterator[None]:
    """A killed process loses nothing that it handed to the kernel: only a power cut would, and none is tested."""

    def relaxed(connection: Any, _: object) -> None:
        if type(connection).__module__.startswith("sqlite3"):
            connection.execute("PRAGMA synchronous = OFF")

    fsync = os.fsync
    os.fsync = lambda _: None
    event.listen(Engine, "connect", relaxed)
    try:
        yield
    finally:
        event.remove(Engine, "connect", relaxed)
        os.fsync = fsync


def victim(folder: Path, url: str, alias: str, kill_at: int | None, log: Path | None) -> None:
    """The target of a process: work the ledger off, unless another one does, and die at the tick `kill_at` (from 0).
    `log` gets all ticks."""
    ticks: list[str] = []

    def tick(what: str) -> None:
        if len(ticks) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        ticks.append(what)

    wrote: set[int] = set()  # connections whose transaction has written something

    def before_statement(connection: Connection, _: object, statement: str, *__: object) -> None:
        if statement.startswith(("INSERT", "UPDATE")):
            wrote.add(id(connection))

    def before_commit(connection: Connection) -> None:
        if id(connection) in wrote:
            tick("before commit")
            wrote.remove(id(connection))

    event.listen(Engine, "before_cursor_execute", before_statement)
    event.listen(Engine, "commit", before_commit)
    write_whole = runs.write_whole

    def ticking_write(path: Path, write: Callable[[Path], object]) -> None:
        def half(temporary: Path) -> None:
            write(temporary)
            tick(f"writing {path.name}")

        write_whole(path, half)
        tick(f"written {path.name}")

    for module in (runs, rows, certificate):
        module.write_whole = ticking_write
    with without_fsync(), suppress(HeldError):
        runner(config(folder, url, alias=alias), folder, tick).run()
    if log is not None:
        log.write_text(json.dumps(ticks))
