"""A ledger comes back from a backup, from certificates, or from both; what neither has is said."""

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from obliviate.aliases import read_aliases
from obliviate.errors import UserError
from obliviate.runs import write_json
from obliviate_recipes.requests import runner as runner_module
from obliviate_recipes.requests.backup import export
from obliviate_recipes.requests.certificate import load_key, make_key, signer, verify, write_certificate
from obliviate_recipes.requests.knowledge import text_hash
from obliviate_recipes.requests.ledger import Ledger
from obliviate_recipes.requests.opening import open_ledger
from obliviate_recipes.requests.restoring import restore_ledger
from requests_world import ROWS, STUBBORN, FakeWork, config, forgotten, runner

HASHES = [text_hash(row) for row in ROWS]


class Service:
    """A ledger and its runners, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "ledger.sqlite"
        self.settings = config(folder, str(self.path))
        Ledger(str(self.path), create=True)

    @property
    def ledger(self) -> Ledger:
        return Ledger(str(self.path))

    def ask(self, requester: str, *rows: int) -> None:
        self.ledger.add("production", "base", requester, [HASHES[row] for row in rows])

    def work(self) -> None:
        runner(self.settings, self.folder).run()

    def backup(self) -> Path:
        export(self.ledger, self.folder / "backup.jsonl")
        return self.folder / "backup.jsonl"

    def lose(self) -> None:
        for path in self.folder.glob("ledger.sqlite*"):
            path.unlink()

    def restore(self, backup: Path | None, *certificates: Path, keys: Collection[str] | None = None) -> tuple[int, int]:
        own = {signer(load_key(self.folder / "key.pem").public_key())}
        ledger = Ledger(str(self.path), create=True)
        return restore_ledger(ledger, "production", backup, certificates, own if keys is None else keys)

    @property
    def certificates(self) -> Path:
        return self.folder / "runs" / "requests"


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


class TestBackups:
    def test_everything_comes_back(self, service: Service) -> None:
        """One request is met, one failed, and one waits."""
        service.ask("ann", 0)
        service.ledger.add("production", "base", "cy", [text_hash(STUBBORN)])
        service.work()
        service.ask("bob", 1, 2)
        known = service.ledger.requests("production")
        identity, served = service.ledger.identity, service.ledger.model_of("production")
        assert [each.state for each in known] == ["fulfilled", "failed", "pending"]
        backup = service.backup()
        service.lose()
        assert service.restore(backup) == (3, 0)
        assert service.ledger.requests("production") == known
        assert (service.ledger.identity, service.ledger.model_of("production")) == (identity, served)
        open_ledger(service.settings)
        service.ask("dan", 5)
        service.work()
        assert [each.id for each in service.ledger.requests("production", state=None, last=1)] == [4]
        assert set(forgotten(str(service.ledger.model_of("production")))) == {HASHES[each] for each in (0, 1, 2, 5)}
        export(service.ledger, backup)
        first = json.loads(backup.read_text().splitlines()[0])
        assert first == {"begin": {"format": "obliviate ledger 1", "ledger": identity}}

    def test_a_runner_that_was_at_work_has_lost_its_batch(self, service: Service) -> None:
        service.ask("ann", 0)
        paused = runner(service.settings, service.folder)
        service.ledger.claim("production", paused.owner, 600, due_after_s=0, most=1)
        backup = service.backup()
        service.lose()
        service.restore(backup)
        service.work()
        assert service.ledger.request("production", 1).state == "fulfilled"

    def test_into_an_empty_ledger_alone(self, service: Service) -> None:
        service.ask("ann", 0)
        with pytest.raises(UserError, match="the ledger holds 1 aliases already; restore a backup into an empty one"):
            service.restore(service.backup())

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (slice(0, -1), "backup.jsonl: was cut short: its last line does not count the 3 before; give another"),
            (
                slice(1, None),
                "backup.jsonl, line 1: is no line of a backup; give a file that `obliviate request export",
            ),
            (slice(0, 0), "backup.jsonl: was cut short: "),
        ],
    )
    def test_a_file_that_is_not_whole(self, service: Service, lines: slice, message: str) -> None:
        service.ask("ann", 0)
        backup = service.backup()
        backup.write_text("".join(backup.read_text().splitlines(keepends=True)[lines]))
        service.lose()
        with pytest.raises(UserError, match=message):
            service.restore(backup)
        assert service.ledger.requests("production") == []

    def test_a_line_that_is_wrong(self, service: Service) -> None:
        service.ask("ann", 0)
        backup = service.backup()
        backup.write_text(backup.read_text().replace('"pending"', '"waiting"'))
        service.lose()
        with pytest.raises(UserError, match=r"backup.jsonl, line 3: request.state: should be 'pending', 'running', "):
            service.restore(backup)


class TestCertificates:
    def test_what_was_met_comes_back(self, service: Service) -> None:
        """And the next batch starts from the model that is served, with the forgotten rows left out."""
        for requester, row in (("ann", 0), ("bob", 1)):
            service.ask(requester, row)
            service.work()
        known, identity = service.ledger.requests("production"), service.ledger.identity
        service.lose()
        assert service.restore(None, service.certificates) == (0, 2)
        assert service.restore(None, service.certificates) == (0, 0)
        assert service.ledger.identity == identity
        for was, found in zip(known, service.ledger.requests("production"), strict=True):
            assert found.received_s == pytest.approx(was.received_s, abs=1)  # certificates tell whole seconds
            assert found.ended_s == pytest.approx(was.ended_s, abs=60)
            assert replace(found, received_s=was.received_s, ended_s=was.ended_s) == was
        open_ledger(service.settings)
        service.ask("cy", 2)
        with pytest.raises(UserError, match="all 1 texts are forgotten already, by request 2"):
            service.ask("dan", 1)
        service.work()
        served = read_aliases(service.folder / "aliases.json")["production"]
        assert set(forgotten(served)) == set(HASHES[:3])
        (retained,) = service.certificates.glob("production-3-*/retain.jsonl")
        assert not {text_hash(row) for row in runner_module.read_rows(retained)} & set(HASHES[:3])

    def test_on_top_of_an_older_backup(self, service: Service) -> None:
        """ann's was met before it was written, bob's batch was under way and failed since, cy's was met since."""
        service.ask("ann", 0)
        service.work()
        service.ledger.add("production", "base", "bob", [text_hash(STUBBORN)])
        service.ledger.claim("production", "a runner", 0, due_after_s=0, most=1)
        service.ask("cy", 1)
        backup = service.backup()
        service.work()
        ann, bob, cy = service.ledger.requests("production")
        assert [ann.state, bob.state, cy.state] == ["fulfilled", "failed", "fulfilled"]
        service.lose()
        assert service.restore(backup, service.certificates) == (3, 1)
        open_ledger(service.settings)
        assert service.ledger.requests("production")[0] == ann
        again = service.ledger.requests("production")[1]
        assert (again.state, again.alone) == ("pending", True)  # and is tried, and fails, once more
        assert service.ledger.requests("production")[2].certificate == cy.certificate
        service.work()
        assert [each.state for each in service.ledger.requests("production")] == ["fulfilled", "failed", "fulfilled"]

    def test_a_batch_that_was_being_certified(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        """The runner dies between two certificates, and the ledger is lost: a run writes the second one."""
        service.ask("ann", 0)
        service.ask("bob", 1)
        backup = service.backup()

        def die(folder: Path, name: str, *rest: object) -> Path:
            if name == "certificate-2":
                raise KeyboardInterrupt
            return write_certificate(folder, name, *rest)  # type: ignore[arg-type]

        with monkeypatch.context() as patched:
            patched.setattr(runner_module, "write_certificate", die)
            with pytest.raises(KeyboardInterrupt):
                service.work()
        served = read_aliases(service.folder / "aliases.json")["production"]
        service.lose()
        with pytest.raises(UserError, match="its batch 1 has met request 2 too; give that one's certificate, "):
            service.restore(None, service.certificates)
        assert service.restore(backup, service.certificates) == (2, 1)
        assert [each.state for each in service.ledger.requests("production")] == ["fulfilled", "running"]
        open_ledger(service.settings)
        goes_on = runner(service.settings, service.folder)
        assert goes_on.run() == 1
        assert isinstance(goes_on.work, FakeWork)
        assert goes_on.work.calls == []
        assert read_aliases(service.folder / "aliases.json")["production"] == served
        for request in service.ledger.requests("production"):
            assert request.state == "fulfilled"
            assert verify(Path(str(request.certificate)))[0]["ledger"]["requests"] == [1, 2]

    def test_a_certificate_of_another_key(self, service: Service) -> None:
        service.ask("ann", 0)
        service.work()
        make_key(service.folder / "other.pem")
        keys = {signer(load_key(service.folder / "other.pem").public_key())}
        with pytest.raises(UserError, match=r"certificate-1\.json: was signed with the key SHA-256 .*; give --key"):
            service.restore(None, service.certificates, keys=keys)

    def test_certificates_of_another_ledger(self, service: Service, tmp_path: Path) -> None:
        service.ask("ann", 0)
        service.work()
        service.lose()
        Ledger(str(service.path), create=True).add("production", "base", "zed", [HASHES[5]])
        with pytest.raises(
            UserError, match=r"certificate-1\.json: is of the ledger \w+, not of \w+; give certificates"
        ):
            service.restore(None, service.certificates)

    def test_a_request_that_is_another_one(self, service: Service) -> None:
        service.ask("ann", 0)
        service.work()
        with service.ledger.database.writing() as connection:
            connection.exec_driver_sql("UPDATE requests SET fingerprint = 'another'")
        with pytest.raises(UserError, match=r"certificate-1\.json: request 1 is another one in the ledger; give"):
            service.restore(None, service.certificates)

    def test_places_without_certificates(self, service: Service, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError, match=r"empty: holds no certificate-N\.json; give the folder `requests` in that"):
            service.restore(None, tmp_path / "empty")
        service.ask("ann", 0)
        service.work()
        (path,) = service.certificates.rglob("certificate-1.json")
        (tmp_path / "mine").mkdir()
        alone = path.rename(tmp_path / "mine" / path.name)
        with pytest.raises(UserError, match="its folder is not named ALIAS-BATCH-TIME, as that of its batch was; put"):
            service.restore(None, alone)

    def test_those_that_do_not_name_their_ledger(self, service: Service) -> None:
        """As those of before; the folders' names tell the batches."""
        for requester, row in (("ann", 0), ("bob", 1)):
            service.ask(requester, row)
            service.work()
        served = service.ledger.model_of("production")
        for path in service.certificates.rglob("certificate-*.json"):
            statement, _ = verify(path)
            old = {key: value for key, value in statement.items() if key != "ledger"}
            write_certificate(path.parent, path.stem, old, load_key(service.folder / "key.pem"))
        write_json(service.folder / "aliases.json", read_aliases(service.folder / "aliases.json"))
        service.lose()
        assert service.restore(None, service.certificates) == (0, 2)
        open_ledger(service.settings)
        assert service.ledger.model_of("production") == served
        assert service.ledger.forgotten("production", HASHES) == set(HASHES[:2])
