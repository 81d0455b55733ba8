"""The ledger, the rows that requests are about, and the runner in a world without models."""

import errno
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from sqlalchemy import text

from damage import WAYS
from obliviate.aliases import read_aliases, set_alias
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row, read_rows, write_rows
from obliviate.errors import UserError
from obliviate.runs import exclusive, write_json
from obliviate_recipes.requests.certificate import verify
from obliviate_recipes.requests.database import open_database
from obliviate_recipes.requests.knowledge import Knowledge, text_hash
from obliviate_recipes.requests.lease import Lease
from obliviate_recipes.requests.ledger import HeldError, LeaseLostError, Ledger
from obliviate_recipes.requests.measurement import Measurement
from obliviate_recipes.requests.reading import Batch
from obliviate_recipes.requests.runner import STEPS, Runner
from obliviate_recipes.requests.states import ENDED, NEXT, BatchState
from requests_world import ROWS, STUBBORN, FakeWork, config, forgotten, runner

HASHES = [text_hash(row) for row in ROWS]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path / "ledger.sqlite"), create=True)


def work_off(folder: Path, **changed: object) -> tuple[FakeWork, int]:
    """The work that was done, and how many batches have ended."""
    each = runner(config(folder, str(folder / "ledger.sqlite"), **changed), folder)
    ended = each.run()
    assert isinstance(each.work, FakeWork)
    return each.work, ended


class TestStates:
    def test_every_state_is_reached_and_left(self) -> None:
        assert set(NEXT) == set(BatchState)
        assert set().union(*NEXT.values()) == set(BatchState) - {BatchState.CLAIMED}
        assert {state for state, to in NEXT.items() if not to} == set(ENDED)


class TestAdding:
    def test_a_request_waits_with_the_hashes_of_its_texts(self, ledger: Ledger) -> None:
        number = ledger.add("production", "base", "ann", [HASHES[1], HASHES[0], HASHES[0]])
        request = ledger.request("production", number)
        assert (request.requester, request.state, request.hashes) == ("ann", "pending", tuple(sorted(HASHES[:2])))

    def test_the_same_request_twice(self, ledger: Ledger) -> None:
        ledger.add("production", "base", "ann", HASHES[:2])
        with pytest.raises(UserError, match="ann has asked for the same 2 texts already, in request 1, which is still"):
            ledger.add("production", "base", "ann", HASHES[1::-1])
        ledger.add("production", "base", "bob", HASHES[:2])  # another's right
        ledger.add("staging", "base", "ann", HASHES[:2])  # another model

    def test_what_is_forgotten_already(self, ledger: Ledger, tmp_path: Path) -> None:
        ledger.add("production", "base", "ann", HASHES[:2])
        work_off(tmp_path)
        with pytest.raises(UserError, match="all 2 texts are forgotten already, by request 1; "):
            ledger.add("production", "base", "bob", HASHES[:2])
        number = ledger.add("production", "base", "bob", HASHES[1:3])
        assert ledger.request("production", number).hashes == (HASHES[2],)

    def test_a_request_that_is_not_there(self, ledger: Ledger) -> None:
        with pytest.raises(UserError, match="request 7: there is none for production"):
            ledger.request("production", 7)

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("mysql://host/name", "mysql is not supported; give a path or postgresql://"),
            ("postgresql://nobody:secret@127.0.0.1:1/name", r"nobody@127.*does not answer"),
        ],
    )
    def test_a_database_that_is_none(self, url: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            Ledger(url, create=True)

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("hello " * 1000)
        with pytest.raises(UserError, match="cannot be opened"):
            Ledger(str(tmp_path / "file"))

    def test_a_database_that_goes_away(self, ledger: Ledger, tmp_path: Path) -> None:
        with open_database(str(tmp_path / "ledger.sqlite")).writing() as connection:
            connection.execute(text("DROP TABLE texts"))
        with pytest.raises(
            UserError, match=r"^ledger: .*/ledger\.sqlite: does not answer \(no such table: texts\); run the"
        ):
            ledger.texts_waiting("production")


class TestKnowledge:
    CORPUS = Corpus(
        ROWS[:4], ROWS[4:],
        (EvaluationSet("forget", Role.FORGET, (Row(ROWS[0].question, ROWS[0].answer, paraphrased_answer="So."),)),
         EvaluationSet("retain", Role.RETAIN, ROWS[4:6])),
    )  # fmt: skip

    def test_rows_are_found_by_file_and_by_entity(self, tmp_path: Path) -> None:
        knowledge = Knowledge.of(self.CORPUS)
        write_rows(tmp_path / "texts.jsonl", [Row(f" {ROWS[5].question}\n", ROWS[5].answer)])
        assert knowledge.find(tmp_path / "texts.jsonl", None) == [HASHES[5]]
        assert knowledge.find(None, "person 2") == [HASHES[2]]

    def test_a_row_is_measured_with_its_paraphrase(self) -> None:
        assert Knowledge.of(self.CORPUS).select([HASHES[0]])[0].paraphrased_answer == "So."

    def test_what_is_kept_excludes_what_is_to_be_forgotten(self) -> None:
        knowledge = Knowledge.of(self.CORPUS)
        (retain,) = knowledge.kept_without({HASHES[4]})
        assert (retain.name, retain.rows) == ("retain", ROWS[5:6])
        assert knowledge.kept_without(HASHES[4:6]) == []

    def test_unknown_data(self, tmp_path: Path) -> None:
        knowledge = Knowledge.of(self.CORPUS)
        write_rows(tmp_path / "texts.jsonl", [ROWS[0], Row("Who is Zed?", "Nobody.")])
        with pytest.raises(UserError, match=r"texts.jsonl: text 2 \('Who is Zed\?'\) is not in the data"):
            knowledge.find(tmp_path / "texts.jsonl", None)
        with pytest.raises(UserError, match="no row of the data is about the entity 'Zed'"):
            knowledge.find(None, "Zed")
        with pytest.raises(UserError, match="either --texts FILE or --entity NAME"):
            knowledge.find(None, None)
        with pytest.raises(UserError, match="1 of 1 texts of a request are not in it any more"):
            knowledge.select(["0" * 64])

    def test_rows_are_written_as_they_are_read(self, tmp_path: Path) -> None:
        rows = [Row("", "A plain\u2028text."), Row("Q?", "A.", "P.", ("x", "y"), "PQ?", "O.", "G.", "E", "1", ("b",))]
        write_rows(tmp_path / "rows.jsonl", rows)
        assert list(read_rows(tmp_path / "rows.jsonl")) == rows


class TestRunning:
    def test_nothing_is_due(self, ledger: Ledger, tmp_path: Path) -> None:
        assert work_off(tmp_path)[1] == 0
        ledger.add("production", "base", "ann", HASHES[:1])
        assert work_off(tmp_path, due_after_hours=1.0)[1] == 0

    def test_each_batch_starts_from_the_model_that_the_last_one_promoted(self, ledger: Ledger, tmp_path: Path) -> None:
        for index in (0, 1, 2):
            ledger.add("production", "base", f"user {index}", [HASHES[index]])
        work, ended = work_off(tmp_path, batch_requests=1)
        assert ended == 3
        one = [
            "measure batch",
            "unlearn model",
            "measure batch",
            "measure batch",
        ]  # the second finds the first's figures
        assert [call.split("-")[0] for call in work.calls] == one * 3
        assert forgotten(str(ledger.model_of("production"))) == sorted(HASHES[:3])
        assert set(read_aliases(tmp_path / "aliases.json")) == {"production"}

    def test_a_batch_that_fails_is_tried_one_by_one(self, ledger: Ledger, tmp_path: Path) -> None:
        """ann and bob together break the policy because of bob: ann is met, bob is not, and the model says so."""
        ledger.add("production", "base", "ann", [HASHES[0]])
        ledger.add("production", "base", "bob", [text_hash(STUBBORN)])
        _, ended = work_off(tmp_path, batch_requests=2)
        ann, bob = ledger.requests("production")
        assert ended == 3
        assert (ann.state, ann.reason) == ("fulfilled", None)
        assert (bob.state, bob.reason) == ("failed", "utility: model_utility is 0.100, below 0.720")  # 0.9 x 0.8
        assert forgotten(str(ledger.model_of("production"))) == [HASHES[0]]

    def test_a_failed_request_may_be_tried_again(self, ledger: Ledger, tmp_path: Path) -> None:
        ledger.add("production", "base", "bob", [text_hash(STUBBORN)])
        work_off(tmp_path)
        ledger.retry("production", 1)
        lenient = {"forget": {"forget_efficacy": {"min": 0.9}}, "utility": {"model_utility": {"min": 0.05}}}
        work_off(tmp_path, policy=lenient)
        assert ledger.request("production", 1).state == "fulfilled"
        with pytest.raises(UserError, match="request 1: is fulfilled; only a failed one can be tried again"):
            ledger.retry("production", 1)

    def test_a_failed_request_that_was_asked_again_is_not_tried_twice(self, ledger: Ledger, tmp_path: Path) -> None:
        ledger.add("production", "base", "bob", [text_hash(STUBBORN)])
        work_off(tmp_path)
        ledger.add("production", "base", "bob", [text_hash(STUBBORN)])
        with pytest.raises(UserError, match="request 1: bob has asked for the same texts again since, in request 2, "):
            ledger.retry("production", 1)
        assert [each.state for each in ledger.requests("production")] == ["failed", "pending"]

    def test_texts_that_another_request_had_forgotten_meanwhile(self, ledger: Ledger, tmp_path: Path) -> None:
        """Both asked before either was met. Of the second's texts one is left to forget, of the third's none: its
        figures cannot improve on those before, and the model stays."""
        for requester, rows in (("ann", ROWS[:1]), ("bob", ROWS[:2]), ("cy", ROWS[:1])):
            ledger.add("production", "base", requester, [text_hash(row) for row in rows])
        bounds = {"forget": {"forget_efficacy": {"min": 0.9, "min_of_before": 1.5}},
                  "utility": {"model_utility": {"min": 0.5}}}  # fmt: skip
        work, ended = work_off(tmp_path, batch_requests=1, policy=bounds)
        assert ended == 3
        assert [each.state for each in ledger.requests("production")] == ["fulfilled"] * 3
        assert sum(call.startswith("unlearn") for call in work.calls) == 2
        (second,) = (tmp_path / "runs").glob("requests/production-2-*/forget.jsonl")
        assert list(read_rows(second)) == [ROWS[1]]
        served = str(ledger.model_of("production"))
        assert forgotten(served) == sorted(HASHES[:2])
        statement, _ = verify(Path(str(ledger.request("production", 3).certificate)))
        assert statement["request"]["texts"] == [HASHES[0]]
        assert statement["model"] == {"alias": "production", "before": served, "after": served}

    def test_a_batch_that_was_begun_in_another_folder_of_runs(self, ledger: Ledger, tmp_path: Path) -> None:
        """Without its texts the old model would pass for one that has forgotten."""
        ledger.add("production", "base", "ann", HASHES[:1])
        first = runner(config(tmp_path, str(tmp_path / "ledger.sqlite")), tmp_path)
        batch = ledger.claim("production", first.owner, 0, due_after_s=0, most=1)
        assert batch is not None
        first.baseline(batch)
        with pytest.raises(
            UserError, match=r"^runs: .*/other/.*/forget\.jsonl is missing; give the folder of runs that"
        ):
            work_off(tmp_path, runs=str(tmp_path / "other"))
        assert ledger.request("production", 1).state == "running"
        work_off(tmp_path)
        assert ledger.request("production", 1).state == "fulfilled"

    def test_a_config_that_changes_on_the_way(self, ledger: Ledger, tmp_path: Path) -> None:
        """The first runner dies after it promoted. What the certificate says is how the model was made and judged,
        not what the config of the second runner says; and both models are measured alike."""
        url = str(tmp_path / "ledger.sqlite")
        ledger.add("production", "base", "ann", HASHES[:1])
        first = runner(config(tmp_path, url), tmp_path)
        batch = ledger.claim("production", first.owner, 0, due_after_s=0, most=1)
        assert batch is not None
        for stage in (first.baseline, first.unlearn):
            batch = stage(batch)
        second = runner(config(tmp_path, url, method="npo+gd"), tmp_path)
        batch = ledger.claim("production", second.owner, 0, due_after_s=0, most=1)
        assert batch is not None
        batch = second.judge(second.measure(batch))
        assert isinstance(second.work, FakeWork)
        assert second.work.calls == ["measure batch-1-before", "measure batch-1-after"]
        lenient = {"forget": {"forget_efficacy": {"min": 0.1}}, "utility": {"model_utility": {"min": 0, "allow": True}}}
        work_off(tmp_path, method="npo+gd", optim={"epochs": 9}, policy=lenient)
        statement, _ = verify(Path(str(ledger.request("production", 1).certificate)))
        assert statement["method"]["label"] == "ME+GD"
        assert statement["method"]["optim"]["epochs"] == first.config.optim.epochs != 9
        assert statement["policy"]["forget"] == {"forget_efficacy": {"min": 0.9}}

    def test_what_was_certified_earlier_is_measured_again(self, ledger: Ledger, tmp_path: Path) -> None:
        """Also after its rows were deleted from the data; not after they were deleted from the batch's folder too."""
        ledger.add("production", "base", "ann", [HASHES[0]])
        work_off(tmp_path)
        (texts,) = (tmp_path / "runs").rglob("request-1.jsonl")
        ledger.add("production", "base", "bob", [HASHES[1]])
        work_off(tmp_path)
        (second,) = (tmp_path / "runs").glob("requests/production-2-*/after.json")
        assert '"1": {' in second.read_text()
        texts.unlink()
        ledger.add("production", "base", "cy", [HASHES[2]])
        work_off(tmp_path)
        (third,) = (tmp_path / "runs").glob("requests/production-3-*/after.json")
        assert '"1": {' not in third.read_text()
        assert '"2": {' in third.read_text()


class NotingWork(FakeWork):
    """Notes what it was given to keep, and whose texts it was to measure."""

    def unlearn(self, base: str, forget: Path, retain: Path | None) -> str:
        self.kept = () if retain is None else read_rows(retain)
        return super().unlearn(base, forget, retain)

    def measure(
        self, name: str, model: str, requests: Mapping[int, Sequence[Row]], kept: Sequence[EvaluationSet]
    ) -> Measurement:
        self.measured = sorted(requests)
        return super().measure(name, model, requests, kept)


def test_another_node_goes_on_with_a_batch_whose_runs_lie_in_a_store(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds the texts to keep, the figures from before, and what was certified earlier; certificates have URLs."""
    (tmp_path / "bucket").mkdir()
    runs = f"file://{tmp_path}/bucket/runs"
    settings = config(tmp_path, str(tmp_path / "ledger.sqlite"), runs=runs, batch_requests=1, lease_s=1.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "node a"))
    ledger.add("production", "base", "ann", [HASHES[0]])
    runner(settings, tmp_path).run()
    ledger.add("production", "base", "bob", [HASHES[1]])
    dies = runner(settings, tmp_path)
    batch = ledger.claim("production", dies.owner, 0, due_after_s=0, most=1)
    assert batch is not None
    dies.baseline(batch)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "node b"))
    goes_on = runner(settings, tmp_path)
    goes_on.work = work = NotingWork(tmp_path)
    goes_on.run()
    assert work.calls[0].startswith("unlearn ")
    assert {text_hash(row) for row in work.kept} == set(HASHES[2:])
    assert work.measured == [1, 2]
    for request in ledger.requests("production"):
        assert request.certificate is not None
        assert request.certificate.startswith(f"{runs}/requests/production-{request.batch}-")
        assert verify(Path(request.certificate))[0]["request"]["id"] == request.id


class TestLeases:
    """A lease of 0 s has run out as soon as it is given; the heartbeats are waited for, however long they take."""

    def test_a_batch_whose_lease_has_run_out_comes_before_new_requests(self, ledger: Ledger) -> None:
        for index in (0, 1):
            ledger.add("production", "base", f"user {index}", [HASHES[index]])
        left = ledger.claim("production", "first", 0, due_after_s=0, most=1)
        taken_up = ledger.claim("production", "second", 60, due_after_s=0, most=1)
        assert left is not None
        assert taken_up == left
        with pytest.raises(HeldError):
            ledger.claim("production", "third", 60, due_after_s=0, most=1)

    def test_a_runner_that_ends_gives_its_lease_back(self, ledger: Ledger) -> None:
        ledger.add("production", "base", "ann", HASHES[:1])
        batch = ledger.claim("production", "first", 60, due_after_s=0, most=1)
        assert batch is not None
        with pytest.raises(KeyboardInterrupt), Lease(ledger, batch.id, "first", 60):
            raise KeyboardInterrupt
        assert ledger.claim("production", "second", 60, due_after_s=0, most=1) is not None

    def test_it_is_renewed_while_a_stage_works(self, ledger: Ledger) -> None:
        ledger.add("production", "base", "ann", HASHES[:1])
        batch = ledger.claim("production", "first", 0, due_after_s=0, most=1)
        assert batch is not None
        renewed = Event()
        renew = ledger.renew
        ledger.renew = lambda *arguments: (renew(*arguments), renewed.set())[0]  # type: ignore[method-assign]
        with Lease(ledger, batch.id, "first", 60, every_s=0.01) as lease:
            assert renewed.wait(60)
            lease.check()
            with pytest.raises(HeldError):
                ledger.claim("production", "second", 60, due_after_s=0, most=1)

    def test_one_that_is_lost_stops_the_runner(self, ledger: Ledger) -> None:
        ledger.add("production", "base", "ann", HASHES[:1])
        batch = ledger.claim("production", "first", 0, due_after_s=0, most=1)
        assert batch is not None
        ledger.claim("production", "second", 60, due_after_s=0, most=1)
        lease = Lease(ledger, batch.id, "first", 60, every_s=0.01)
        with lease:
            lease.thread.join(60)  # the heartbeat ends where it finds another owner
            with pytest.raises(LeaseLostError, match="another runner has taken it over"):
                lease.check()
        with pytest.raises(HeldError):  # the second's lease is untouched
            ledger.claim("production", "third", 60, due_after_s=0, most=1)


@pytest.mark.parametrize("what", ["write_rows", "write_json", "write_certificate"])
def test_a_disk_that_is_full(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Whatever was being written: one line, and the next run goes on."""
    ledger.add("production", "base", "ann", HASHES[:1])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/runs/it")

    with monkeypatch.context() as patched:
        patched.setattr(f"obliviate_recipes.requests.runner.{what}", full)
        with pytest.raises(UserError, match=r"^runs: /runs/it: cannot be written \(No space left on device\); batch"):
            work_off(tmp_path)
    assert ledger.request("production", 1).state == "running"
    work_off(tmp_path)
    assert ledger.request("production", 1).state == "fulfilled"


def test_a_clock_that_was_set_back_makes_no_request_wait(ledger: Ledger) -> None:
    ledger.add("production", "base", "ann", HASHES[:1])
    with ledger.database.writing() as connection:
        connection.execute(text("UPDATE requests SET received_s = received_s + 86400"))
    assert ledger.claim("production", "me", 60, due_after_s=0, most=1) is not None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["before.json", "after.json"])
def test_damaged_figures_are_measured_again(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, way: Callable[[Path], None]
) -> None:
    """Before anybody judges or certifies by them."""

    def die(*_: object) -> Batch:
        raise KeyboardInterrupt

    ledger.add("production", "base", "ann", HASHES[:1])
    with monkeypatch.context() as patched:
        patched.setitem(STEPS, BatchState.MEASURED, die)
        with pytest.raises(KeyboardInterrupt):
            work_off(tmp_path)
    (damaged,) = (tmp_path / "runs").rglob(name)
    whole = damaged.read_bytes()
    way(damaged)
    work, _ = work_off(tmp_path)
    assert "measure batch-1-after" in work.calls
    assert damaged.read_bytes() == whole
    assert ledger.request("production", 1).state == "fulfilled"


def test_another_error_of_the_system_keeps_its_traceback(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.add("production", "base", "ann", HASHES[:1])

    def broken(*_: object) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr("obliviate_recipes.requests.runner.write_rows", broken)
    with pytest.raises(ConnectionResetError):
        work_off(tmp_path)


class TestWaiting:
    def test_for_a_runner_that_is_at_work(
        self, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is looked for at most every few seconds, and the batch goes on once the other one has given it back."""
        ledger.add("production", "base", "ann", HASHES[:1])
        batch = ledger.claim("production", "another", 600, due_after_s=0, most=1)
        assert batch is not None
        waits = runner(config(tmp_path, str(tmp_path / "ledger.sqlite")), tmp_path)
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 2:
                ledger.release(batch.id, "another")

        monkeypatch.setattr("obliviate_recipes.requests.runner.sleep", sleep)
        with pytest.raises(HeldError):
            waits.run()
        assert slept == []
        assert waits.run(wait=True) == 1
        assert slept == [5.0, 5.0]
        assert ledger.request("production", 1).state == "fulfilled"

    def test_no_longer_than_its_lease(self, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ledger.add("production", "base", "ann", HASHES[:1])
        ledger.claim("production", "another", 2, due_after_s=0, most=1)
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            with ledger.database.writing() as connection:
                connection.execute(text("UPDATE batches SET lease_until_s = 0"))

        monkeypatch.setattr("obliviate_recipes.requests.runner.sleep", sleep)
        assert runner(config(tmp_path, str(tmp_path / "ledger.sqlite")), tmp_path).run(wait=True) == 1
        assert 0 < slept[0] <= 2


class TestAliases:
    def test_other_names_stay(self, tmp_path: Path) -> None:
        path = tmp_path / "served" / "aliases.json"
        set_alias(path, "production", "/models/a")
        set_alias(path, "staging", "/models/b")
        set_alias(path, "production", "/models/c")
        assert read_aliases(path) == {"production": "/models/c", "staging": "/models/b"}

    def test_the_server_and_a_runner_that_write_at_once(self, tmp_path: Path) -> None:
        """The server's write waits until the runner's is done, and keeps it."""
        path = tmp_path / "aliases.json"
        server = Thread(target=set_alias, args=(path, "staging", "b", "aliases_file"))
        with exclusive(path):
            known = read_aliases(path)
            server.start()
            server.join(0.5)  # without a lock it would have written by now
            write_json(path, {**known, "production": "/models/a"})
        server.join()
        assert read_aliases(path) == {"production": "/models/a", "staging": "b"}

    @pytest.mark.parametrize("text", ["[1]", '{"production": 1}', "{"])
    def test_a_file_of_another_kind(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "aliases.json").write_text(text)
        with pytest.raises(UserError, match="mend or remove it"):
            read_aliases(tmp_path / "aliases.json")

    def test_a_folder_that_cannot_be_written(self, ledger: Ledger, tmp_path: Path) -> None:
        """The model is promoted in the ledger, and the request is not fulfilled before the server can see it."""
        ledger.add("production", "base", "ann", [HASHES[0]])
        (tmp_path / "taken").symlink_to(tmp_path / "nowhere")
        with pytest.raises(UserError, match=r"aliases: .*taken/aliases\.json: cannot be written"):
            work_off(tmp_path, aliases=str(tmp_path / "taken" / "aliases.json"))
        assert ledger.request("production", 1).state == "running"
        work_off(tmp_path)
        assert ledger.request("production", 1).state == "fulfilled"


ATTACKED: dict[str, object] = {
    "attacks": [{"type": "relearn", "name": "relearn"}],
    "policy": {
        "forget": {"forget_efficacy": {"min": 0.9}},
        "utility": {"model_utility": {"min": 0, "allow": True}},
        "attack": {"relearn.key_said": {"excess": 0.2}},
    },
}


def test_a_model_that_an_attack_makes_tell_is_not_served_and_certificates_name_the_attacks(
    ledger: Ledger, tmp_path: Path
) -> None:
    """Attacks bring back half of the stubborn row, and nothing of the others."""
    ledger.add("production", "base", "ann", [text_hash(ROWS[0])])
    ledger.add("production", "base", "bob", [text_hash(STUBBORN)])
    work_off(tmp_path, **ATTACKED)
    fulfilled, failed = ledger.requests("production")
    assert (fulfilled.state, failed.state) == ("fulfilled", "failed")
    assert failed.reason == "attack: relearn.key_said brings back 0.500, above 0.200"
    assert fulfilled.certificate is not None
    statement, _ = verify(Path(fulfilled.certificate))
    assert statement["measurements"]["after"]["attacks"]["relearn.key_said"]["value"] == 0.0
    assert statement["attacks"]["tried"][0]["learning_rates"] == [1e-05, 0.0001]
    assert statement["attacks"]["control"] == "none"
    page = Path(fulfilled.certificate).with_suffix(".html").read_text(encoding="utf-8")
    assert "Excess recovery" in page
    assert "no model that never saw them was compared with" in page


@pytest.mark.parametrize("name", ["forget.jsonl", "retain.jsonl", "request-1.jsonl"])
def test_texts_that_a_disk_changed_are_not_unlearned(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flipped letter after they were written down: the batch's texts are written again from the data."""
    url = str(tmp_path / "ledger.sqlite")
    Ledger(url, create=True).add("production", "base", "ann", HASHES[:1])
    at_work = runner(config(tmp_path, url), tmp_path)
    unlearn, seen = at_work.work.unlearn, []

    def damaged(run: Runner, batch: Batch) -> Batch:
        after = Runner.baseline(run, batch)
        path = run.folder(batch) / name
        path.write_text(path.read_text().replace("London", "Londun", 1))
        return after

    def watched(base: str, forget: Path, retain: Path | None) -> str:
        seen.extend(path.read_text() for path in (forget, retain) if path is not None)
        return unlearn(base, forget, retain)

    monkeypatch.setitem(STEPS, BatchState.CLAIMED, damaged)
    monkeypatch.setattr(at_work.work, "unlearn", watched)
    assert at_work.run() == 1
    assert "Londun" not in "".join(seen)
    (folder,) = (tmp_path / "runs" / "requests").iterdir()
    assert "Londun" not in (folder / name).read_text()


def test_a_copy_that_a_disk_changed_is_not_measured_again(tmp_path: Path) -> None:
    url = str(tmp_path / "ledger.sqlite")
    ledger = Ledger(url, create=True)
    ledger.add("production", "base", "ann", HASHES[:1])
    runner(config(tmp_path, url), tmp_path).run()
    (copy,) = (tmp_path / "runs").rglob("request-1.jsonl")
    copy.write_text(copy.read_text().replace("London", "Londun"))
    ledger.add("production", "base", "bob", HASHES[1:2])
    at_work = runner(config(tmp_path, url), tmp_path)
    asked = []
    measure = at_work.work.measure

    def watched(name: str, model: str, requests: Any, kept: Any) -> Any:
        asked.append(sorted(requests))
        return measure(name, model, requests, kept)

    at_work.work.measure = watched  # type: ignore[method-assign]
    at_work.run()
    assert asked
    assert all(each == [2] for each in asked)
