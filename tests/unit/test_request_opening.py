"""A ledger that was lost, or is an old copy, is told from the alias file and from certificates, before it does harm."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from obliviate.aliases import LEDGERS, Mark, read_aliases, read_mark, set_alias
from obliviate.errors import UserError
from obliviate.runs import write_json
from obliviate_recipes.requests.certificate import load_key, verify, write_certificate
from obliviate_recipes.requests.knowledge import text_hash
from obliviate_recipes.requests.ledger import Ledger
from obliviate_recipes.requests.opening import open_ledger
from requests_world import ROWS, config, runner

HASHES = [text_hash(row) for row in ROWS]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a ledger that has met ann's request, in batch 1."""
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(str(path), create=True)
    ledger.add("production", "base", "ann", [HASHES[0]])
    assert runner(config(tmp_path, str(path)), tmp_path).run() == 1
    ledger.database.engine.dispose()
    return path


def meet(path: Path, requester: str, text: str) -> None:
    ledger = Ledger(str(path))
    ledger.add("production", "base", requester, [text])
    runner(config(path.parent, str(path)), path.parent).run()
    ledger.database.engine.dispose()


def refused(folder: Path, path: Path, **changed: Any) -> str:
    """What is said, whoever opens it; nothing is written."""
    before = (folder / "aliases.json").read_text() if (folder / "aliases.json").exists() else None
    there = path.exists()
    messages = []
    for create in (True, False):
        with pytest.raises(UserError) as error:
            open_ledger(config(folder, str(path), **changed), create=create)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert "\n" not in messages[0]
    assert path.exists() == there
    assert ((folder / "aliases.json").read_text() if before else None) == before
    return messages[0]


def test_the_alias_file_and_the_certificate_say_which_ledger_and_how_far(path: Path, tmp_path: Path) -> None:
    ledger = Ledger(str(path))
    mark = read_mark(tmp_path / "aliases.json", "production")
    served = read_aliases(tmp_path / "aliases.json")
    assert mark == Mark(ledger=ledger.identity, path=str(path), batch=1, model=served["production"], met=1)
    assert set(served) == {"production"}
    statement, _ = verify(Path(str(ledger.request("production", 1).certificate)))
    assert statement["ledger"] == {**mark.model_dump(), "requests": [1]}
    assert open_ledger(config(tmp_path, str(path))).identity == ledger.identity


def test_a_lost_ledger(path: Path, tmp_path: Path) -> None:
    identity = Ledger(str(path)).identity
    path.rename(tmp_path / "elsewhere.sqlite")
    assert refused(tmp_path, path) == (
        f"ledger: {path}: is not there, but {tmp_path}/aliases.json says that production is as batch 1 of the ledger "
        f"{identity} at {path} left it, with 1 requests met; go on with that ledger, or restore it with `obliviate "
        "request import`, see docs/requests.md"
    )
    (tmp_path / "aliases.json").unlink()
    (certificate,) = tmp_path.glob("runs/requests/production-1-*/certificate-1.json")
    assert f"is not there, but {certificate} says that production is as batch 1" in refused(tmp_path, path)
    assert open_ledger(config(tmp_path, str(path), alias="staging"), create=True).made  # nobody knows of that one


def test_another_ledger_in_its_place(path: Path, tmp_path: Path) -> None:
    identity = Ledger(str(path)).identity
    path.rename(tmp_path / "elsewhere.sqlite")
    other = Ledger(str(path), create=True).identity
    assert f"ledger: {path}: is the ledger {other}, not {identity}, but {tmp_path}/aliases.json" in refused(
        tmp_path, path
    )


def test_an_old_copy(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite"
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    meet(path, "bob", HASHES[1])
    model = Ledger(str(path)).model_of("production")
    assert f"ledger: {copy}: does not know that batch 2 has promoted {model}, but" in refused(tmp_path, copy)


def test_one_that_has_lost_a_request(path: Path, tmp_path: Path) -> None:
    with Ledger(str(path)).database.writing() as connection:
        connection.exec_driver_sql("UPDATE requests SET state = 'failed'")
    assert "knows 0 requests that production has met, not 1" in refused(tmp_path, path)


def test_a_certificate_that_does_not_name_its_ledger(path: Path, tmp_path: Path) -> None:
    """As those of before: a ledger that knows of no request that was met is not the one that signed it."""
    (certificate,) = tmp_path.glob("runs/requests/production-1-*/certificate-1.json")
    statement, _ = verify(certificate)
    write_certificate(
        certificate.parent,
        certificate.stem,
        {key: value for key, value in statement.items() if key != "ledger"},
        load_key(tmp_path / "key.pem"),
    )
    write_json(tmp_path / "aliases.json", read_aliases(tmp_path / "aliases.json"))
    assert open_ledger(config(tmp_path, str(path))).met("production") == 1
    path.unlink()
    assert f"is not there, but {certificate} says that production has met requests; go on" in refused(tmp_path, path)


def test_two_ledgers_that_share_a_folder_of_runs(path: Path, tmp_path: Path) -> None:
    """Each has an alias file: the newest certificate is of the other one, and says nothing to the first."""
    other = {"aliases": str(tmp_path / "other.json"), "alias": "staging"}
    ledger = Ledger(str(tmp_path / "other.sqlite"), create=True)
    ledger.add("staging", "base", "ann", [HASHES[0]])
    runner(config(tmp_path, str(tmp_path / "other.sqlite"), **other), tmp_path).run()
    (theirs,) = tmp_path.glob("runs/requests/staging-1-*")
    shutil.copytree(theirs, theirs.with_name("production-1-29990101T000000"))
    assert open_ledger(config(tmp_path, str(path))).met("production") == 1


class TestMarks:
    MARK = Mark(ledger="a", path="/ledger", batch=2, model="/m", met=3)

    @pytest.fixture
    def aliases(self, tmp_path: Path) -> Path:
        set_alias(tmp_path / "aliases.json", "production", "/m", mark=self.MARK)
        return tmp_path / "aliases.json"

    def test_the_server_leaves_them_as_they_are(self, aliases: Path) -> None:
        set_alias(aliases, "production", "other", "aliases_file")
        set_alias(aliases, "staging", "other", "aliases_file")
        assert read_aliases(aliases) == {"production": "other", "staging": "other"}
        assert read_mark(aliases, "production") == self.MARK
        assert read_mark(aliases, "staging") is None

    @pytest.mark.parametrize("late", [{"ledger": "b", "batch": 9}, {"batch": 1}, {"model": "/other"}])
    def test_a_ledger_that_is_behind_does_not_publish(self, aliases: Path, late: dict[str, Any]) -> None:
        with pytest.raises(UserError, match="production is as batch 2 of the ledger a at /ledger left it, which "):
            set_alias(aliases, "production", "/old", mark=self.MARK.model_copy(update=late))
        assert read_aliases(aliases) == {"production": "/m"}
        set_alias(aliases, "production", "/m", mark=self.MARK)  # again, by a runner that resumes the batch

    def test_a_mark_that_is_none(self, aliases: Path) -> None:
        write_json(aliases, {"production": "/m", LEDGERS: {"production": {"ledger": "a"}}})
        with pytest.raises(
            UserError, match=r"aliases.json: \$ledgers.production: path is missing or wrong; restore the"
        ):
            read_mark(aliases, "production")
