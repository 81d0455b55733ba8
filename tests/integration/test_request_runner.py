"""A runner of deletion requests may die at any point, and two may work at once: the ledger stays true, on SQLite and on
PostgreSQL. The runners are real processes, killed with SIGKILL; unlearning and measuring are files."""

import json
import multiprocessing
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy import create_engine, select, text, update
from sqlalchemy.pool import NullPool

import old_ledger
import postgres
from obliviate.aliases import read_aliases, read_mark
from obliviate.errors import UserError
from obliviate_recipes.requests.backup import export
from obliviate_recipes.requests.certificate import load_key, signer, verify
from obliviate_recipes.requests.database import open_database
from obliviate_recipes.requests.knowledge import text_hash
from obliviate_recipes.requests.ledger import HeldError, LeaseLostError, Ledger
from obliviate_recipes.requests.opening import open_ledger
from obliviate_recipes.requests.reading import Batch
from obliviate_recipes.requests.restoring import restore_ledger
from obliviate_recipes.requests.states import RequestState
from obliviate_recipes.requests.tables import aliases, batches
from requests_world import ROWS, STUBBORN, config, forgotten, runner, victim, without_fsync

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _without_fsync() -> Iterator[None]:
    with without_fsync():
        yield


PROCESSES = multiprocessing.get_context("forkserver")
# What requests_world imports; itself it would not be found, because the server begins without pytest's paths.
PROCESSES.set_forkserver_preload(["obliviate.config", "obliviate_recipes.requests.runner"])
PARTS = 4  # that the points to be killed at are divided into, so that no test takes long


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    if (reason := postgres.why_not()) is not None:
        pytest.skip(reason)
    with postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "ledger.sqlite")
    found: str = request.getfixturevalue("postgres_url")
    return found


def ask(ledger: Ledger, alias: str) -> None:
    """Two requests that will be met, in one batch, and one whose text costs the model its utility."""
    for requester, rows in (("ann", ROWS[:2]), ("bob", ROWS[4:5]), ("cy", (STUBBORN,))):
        ledger.add(alias, "base", requester, [text_hash(row) for row in rows])


def process(folder: Path, url: str, alias: str, kill_at: int | None = None, log: Path | None = None) -> int | None:
    """The exit code of a runner's process: minus the signal where it was killed."""
    child = PROCESSES.Process(target=victim, args=(folder, url, alias, kill_at, log))
    child.start()
    child.join()
    return child.exitcode


def expire_leases(url: str) -> None:
    with open_database(url).writing() as connection:
        connection.execute(update(batches).values(lease_until_s=0))


def check_what_is_said(folder: Path, ledger: Ledger, alias: str) -> None:
    """Whoever is told that a request is fulfilled finds it so: certified, and forgotten by the model that is served."""
    served = read_aliases(folder / "aliases.json").get(alias)
    for request in ledger.requests(alias):
        if request.state is RequestState.FULFILLED:
            assert served is not None
            assert set(request.hashes) <= set(forgotten(served))
            statement, _ = verify(Path(str(request.certificate)))
            assert statement["request"]["texts"] == list(request.hashes)


def check_the_end(folder: Path, ledger: Ledger, alias: str) -> None:
    check_what_is_said(folder, ledger, alias)
    ann, bob, cy = ledger.requests(alias)
    assert [each.state for each in (ann, bob, cy)] == ["fulfilled", "fulfilled", "failed"]
    assert cy.reason == "utility: model_utility is 0.100, below 0.720"
    assert ledger.model_of(alias) == read_aliases(folder / "aliases.json")[alias]
    assert set(forgotten(str(ledger.model_of(alias)))) == {*ann.hashes, *bob.hashes}
    assert ann.batch == bob.batch != cy.batch


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.cluster)], indirect=True)
def test_a_runner_that_dies_anywhere_loses_nothing(url: str, tmp_path: Path, part: int) -> None:
    ledger = Ledger(url, create=True)
    config(tmp_path, url)  # its files are there before the processes are
    ask(ledger, f"whole-{part}")
    assert process(tmp_path, url, f"whole-{part}", log=tmp_path / "ticks.json") == 0
    check_the_end(tmp_path, ledger, f"whole-{part}")
    ticks: list[str] = json.loads((tmp_path / "ticks.json").read_text())
    for stage in ("unlearning", "measuring batch", "written aliases.json", "written certificate", "before commit"):
        assert any(tick.startswith(stage) for tick in ticks), f"{stage} is no point to be killed at"
    for kill_at in range(part, len(ticks), PARTS):
        alias = f"killed-{kill_at}"
        ask(ledger, alias)
        assert process(tmp_path, url, alias, kill_at) == -signal.SIGKILL, ticks[kill_at]
        check_what_is_said(tmp_path, ledger, alias)
        expire_leases(url)
        runner(config(tmp_path, url, alias=alias), tmp_path).run()
        check_the_end(tmp_path, ledger, alias)


def test_runners_at_once_take_each_request_once(url: str, tmp_path: Path) -> None:
    """Four processes and one ledger: those that find another at work end; one more goes on with what is left."""
    ledger = Ledger(url, create=True)
    config(tmp_path, url)
    ask(ledger, "shared")
    children = [PROCESSES.Process(target=victim, args=(tmp_path, url, "shared", None, None)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    check_the_end(tmp_path, ledger, "shared")


def test_a_claim_waits_for_another_transaction(postgres_url: str) -> None:
    """Somebody holds the alias for a moment, to add a request say: something is due all the same."""
    ledger = Ledger(postgres_url, create=True)
    ask(ledger, "held")
    claimed: list[Batch | None] = []
    runner = Thread(target=lambda: claimed.append(ledger.claim("held", "owner", 60, due_after_s=0, most=1)))
    with open_database(postgres_url).writing() as holder:
        holder.execute(select(aliases).where(aliases.c.name == "held").with_for_update())
        runner.start()
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        while runner.is_alive() and not holder.execute(waiting).scalar_one():
            time.sleep(0.01)
    runner.join()
    assert [batch is not None for batch in claimed] == [True]


def test_a_runner_that_was_taken_for_dead_changes_nothing_any_more(url: str, tmp_path: Path) -> None:
    ledger = Ledger(url, create=True)
    settings = config(tmp_path, url, alias="paused")
    ask(ledger, "paused")
    paused, other = runner(settings, tmp_path), runner(settings, tmp_path)
    batch = ledger.claim("paused", paused.owner, 60, due_after_s=0, most=1)
    assert batch is not None
    with pytest.raises(HeldError, match=f"batch {batch.id}: another runner is at work; unless it renews its "):
        other.run()
    expire_leases(url)
    other.run()
    served = ledger.model_of("paused")
    for late in (paused.baseline, lambda batch: ledger.renew(batch.id, paused.owner, 60)):
        with pytest.raises(LeaseLostError, match="another runner has taken it over"):
            late(batch)
    with pytest.raises(LeaseLostError):
        ledger.publish(batch, paused.owner, lambda model: pytest.fail("the alias file was written"))
    assert ledger.model_of("paused") == served
    check_what_is_said(tmp_path, ledger, "paused")


@pytest.fixture
def empty_url(postgres_url: str, request: pytest.FixtureRequest) -> str:
    """Of a PostgreSQL database of the test's own."""
    name = f"of_{abs(hash(request.node.name))}"
    with create_engine(
        postgres_url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT", poolclass=NullPool
    ).connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    return postgres_url.replace("/postgres", f"/{name}")


def test_a_ledger_of_the_version_before_on_postgresql(empty_url: str, tmp_path: Path) -> None:
    with create_engine(empty_url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool).begin() as old:
        old_ledger.make(old, str(tmp_path / "model"))
    ledger = Ledger(empty_url)
    assert ledger.identity == Ledger(empty_url).identity
    with ledger.database.reading() as connection:
        indexes = set(connection.execute(text("SELECT indexname FROM pg_indexes")).scalars())
    assert {"requests_by_alias", "requests_by_state", "requests_by_batch", "texts_by_hash"} <= indexes
    assert runner(config(tmp_path, empty_url), tmp_path).run() == 1
    assert [each.state for each in ledger.requests("production")] == ["fulfilled"] * 2


def test_from_sqlite_to_postgresql_and_back(empty_url: str, tmp_path: Path) -> None:
    """Nothing is lost on the way, the numbers go on, and what was met since comes from the certificates."""
    first = Ledger(str(tmp_path / "first.sqlite"), create=True)
    ask(first, "production")
    assert runner(config(tmp_path, first.name), tmp_path).run() == 2
    export(first, tmp_path / "backup.jsonl")
    second = Ledger(empty_url, create=True)
    assert restore_ledger(second, "production", tmp_path / "backup.jsonl", (), ()) == (3, 0)
    assert second.requests("production") == first.requests("production")
    assert second.add("production", "base", "dan", [text_hash(ROWS[6])]) == 4
    assert runner(config(tmp_path, empty_url), tmp_path).run() == 1
    mark = read_mark(tmp_path / "aliases.json", "production")
    assert mark is not None
    assert (mark.ledger, mark.path, mark.batch) == (first.identity, second.name, 3)
    with pytest.raises(UserError, match=r"first\.sqlite: does not know that batch 3 has promoted"):
        open_ledger(config(tmp_path, first.name))
    third = Ledger(str(tmp_path / "third.sqlite"), create=True)
    own = {signer(load_key(tmp_path / "key.pem").public_key())}
    certificates = [tmp_path / "runs" / "requests"]
    assert restore_ledger(third, "production", tmp_path / "backup.jsonl", certificates, own) == (3, 1)
    open_ledger(config(tmp_path, third.name))
    assert [each.hashes for each in third.requests("production")] == [
        each.hashes for each in second.requests("production")
    ]
