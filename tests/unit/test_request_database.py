"""The database of a ledger: who makes it, who waits for whom, what a large one reads, and what its failures say."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

import old_ledger
from obliviate.errors import UserError
from obliviate_recipes.requests import database
from obliviate_recipes.requests.database import NoLedgerError, open_database
from obliviate_recipes.requests.knowledge import text_hash
from obliviate_recipes.requests.ledger import Asked, Ledger
from obliviate_recipes.requests.states import RequestState
from obliviate_recipes.requests.tables import VERSION
from requests_world import ROWS, config, forgotten, runner

HASHES = [text_hash(row) for row in ROWS]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


class TestMaking:
    @pytest.mark.parametrize("content", [None, b""])  # a file without tables is what a killed `init` leaves
    def test_opening_makes_none(self, path: Path, content: bytes | None) -> None:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(NoLedgerError, match=rf"^ledger: {path}: (is not there|holds no ledger)$"):
            Ledger(str(path))
        assert (path.read_bytes() if path.exists() else None) == content
        assert Ledger(str(path), create=True).made
        again = Ledger(str(path), create=True)
        assert not again.made
        assert again.identity == Ledger(str(path)).identity

    def test_a_file_that_goes_is_not_made_again(self, path: Path) -> None:
        ledger = Ledger(str(path), create=True)
        ledger = Ledger(str(path))
        ledger.database.engine.dispose()  # its open connections would see the file that was
        path.unlink()
        with pytest.raises(UserError, match="this user cannot open it"):
            ledger.requests("production")
        assert not path.exists()

    def test_its_name_is_absolute_and_has_no_secrets(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(path.parent)
        assert Ledger("ledger.sqlite", create=True).name == str(path)
        with pytest.raises(UserError) as error:
            Ledger("postgresql://ann:secret@127.0.0.1:1/name?sslpassword=secret")
        assert "ledger: postgresql://ann@127.0.0.1:1/name: does not answer" in str(error.value)
        assert "secret" not in str(error.value)

    def test_odd_names_of_files(self, tmp_path: Path) -> None:
        odd = tmp_path / "50% of #1? ä.sqlite"
        Ledger(str(odd), create=True)
        assert odd.is_file()

    def test_a_newer_version(self, path: Path) -> None:
        Ledger(str(path), create=True)
        with open_database(str(path)).writing() as connection:
            connection.execute(text(f"UPDATE ledger_identity SET version = {VERSION + 1}"))
        with pytest.raises(UserError, match="was made by a newer version of Obliviate; run that one"):
            Ledger(str(path))

    def test_one_of_the_version_before(self, path: Path, tmp_path: Path) -> None:
        """It gets an identity and the indexes, keeps what it knows, and is worked off."""
        with create_engine(f"sqlite:///{path}", poolclass=NullPool).begin() as connection:
            old_ledger.make(connection, str(tmp_path / "model"))
        ledger = Ledger(str(path))
        assert not ledger.made
        assert ledger.identity == Ledger(str(path)).identity
        with ledger.database.reading() as connection:
            indexes = set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'index'").scalars())
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert {"requests_by_alias", "requests_by_state", "requests_by_batch", "texts_by_hash"} <= indexes
        assert ledger.forgotten("production", HASHES) == {HASHES[0]}
        assert runner(config(tmp_path, str(path)), tmp_path).run() == 1
        assert [each.state for each in ledger.requests("production")] == ["fulfilled"] * 2
        assert HASHES[1] in forgotten(str(ledger.model_of("production")))


def plans_of(path: Path, ask: Callable[[Ledger], Any]) -> list[str]:
    """How SQLite goes about what is asked of a ledger."""
    ledger = Ledger(str(path), create=True)
    ledger.add("production", "base", "ann", HASHES[:2])
    plans: list[str] = []

    def explain(connection: Connection, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE")):
            rows = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(row[3] for row in rows)

    event.listen(ledger.database.engine, "before_cursor_execute", explain)
    ask(ledger)
    return plans


class TestGrowth:
    """No time is asserted: benchmarks/ledger.py measures it. Here: what is read, and who waits."""

    def test_readers_do_not_wait_for_a_writer(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.0)
        ledger = Ledger(str(path), create=True)
        number = ledger.add("production", "base", "ann", HASHES[:1])
        with Ledger(str(path)).database.writing() as connection:
            connection.execute(text("UPDATE requests SET requester = 'bob'"))
            assert ledger.request("production", number).requester == "ann"
            assert ledger.counts("production") == {RequestState.PENDING: 1}
            assert Ledger(str(path)).forgotten("production", HASHES) == frozenset()
            with pytest.raises(UserError, match=rf"^ledger: {path}: is locked by another process, "):
                ledger.add("production", "base", "bob", HASHES[:1])

    @pytest.mark.parametrize(
        "ask",
        [
            lambda ledger: ledger.requests("production", last=2),
            lambda ledger: ledger.requests("production", state=RequestState.PENDING, last=2),
            lambda ledger: ledger.request("production", 1),
            lambda ledger: ledger.counts("production"),
            lambda ledger: ledger.texts_waiting("production"),
            lambda ledger: ledger.waiting_too("production", 1),
            lambda ledger: ledger.certificates("production"),
            lambda ledger: ledger.forgotten("production", HASHES),
            lambda ledger: ledger.met("production"),
            lambda ledger: ledger.add("production", "base", "bob", HASHES[:2]),
            lambda ledger: ledger.claim("production", "me", 60, due_after_s=0, most=2),
        ],
    )
    def test_nothing_reads_a_whole_table(self, path: Path, ask: Callable[[Ledger], Any]) -> None:
        plans = plans_of(path, ask)
        assert any("SEARCH" in plan for plan in plans)
        assert [plan for plan in plans if re.match("SCAN (requests|texts|batches|aliases)", plan)] == []
        of_texts = [plan for plan in plans if "SEARCH texts" in plan]
        assert [plan for plan in of_texts if not re.search(r"\((request|hash)=\?\)", plan)] == []

    @pytest.mark.parametrize("state", [None, RequestState.PENDING])
    def test_lists_come_in_order(self, path: Path, state: RequestState | None) -> None:
        """Sorted, the newest hundred would take a look at all."""
        plans = plans_of(path, lambda ledger: ledger.requests("production", state=state, last=2))
        assert [plan for plan in plans if "TEMP B-TREE" in plan] == []

    def test_more_hashes_than_a_query_has_parameters(self, path: Path, tmp_path: Path) -> None:
        ledger = Ledger(str(path), create=True)
        ledger.add("production", "base", "ann", HASHES[:3])
        runner(config(tmp_path, str(path)), tmp_path).run()
        others = [f"{number:064}" for number in range(40_000)]
        assert ledger.forgotten("production", [*others, *HASHES]) == set(HASHES[:3])


class TestAll:
    def test_many_at_once_are_taken_in_or_none(self, path: Path) -> None:
        ledger = Ledger(str(path), create=True)
        asked = [Asked("ann", HASHES[:2]), Asked("bob", HASHES[2:3]), Asked("ann", HASHES[1::-1], "file, line 3")]
        with pytest.raises(UserError, match=r"^file, line 3: ann has asked for the same 2 texts already, in req"):
            ledger.add_all("production", "base", asked)
        assert ledger.requests("production") == []
        assert ledger.add_all("production", "base", asked[:2]) == {1: 2, 2: 1}


@contextmanager
def first(statement: str) -> Iterator[None]:
    """Every new connection begins with the statement."""

    def run(connection: Any, _: object) -> None:
        connection.execute(statement)

    event.listen(Engine, "connect", run)
    try:
        yield
    finally:
        event.remove(Engine, "connect", run)


class TestCauses:
    @pytest.mark.parametrize(
        ("statement", "message"),
        [
            ("PRAGMA max_page_count = 1", "the disk is full, and nothing was changed; free some space"),
            ("PRAGMA query_only = ON", "it or its folder is read-only for this user"),
        ],
    )
    def test_what_the_machine_refuses(self, path: Path, statement: str, message: str) -> None:
        Ledger(str(path), create=True)
        with first(statement):
            ledger = Ledger(str(path))
            with pytest.raises(UserError, match=rf"^ledger: {path}: {message}") as error:
                ledger.add_all("production", "base", [Asked("ann", [f"{n}" * 500 for n in range(1000)])])
        assert "\n" not in str(error.value)
        assert Ledger(str(path)).requests("production") == []

    def test_a_damaged_file(self, path: Path) -> None:
        ledger = Ledger(str(path), create=True)
        ledger.add("production", "base", "ann", HASHES)
        ledger.database.engine.dispose()  # until then it lies in the write-ahead log
        content = path.read_bytes()
        path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
        with pytest.raises(UserError, match=rf"^ledger: {path}: is damaged; move it away and restore a backup with"):
            Ledger(str(path)).requests("production")

    def test_a_folder_in_its_place(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="this user cannot open it"):
            Ledger(str(tmp_path))

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match=r"^ledger: .*/file/ledger\.sqlite: cannot be opened .*File exists"):
            Ledger(str(tmp_path / "file" / "ledger.sqlite"), create=True)
