"""`obliviate request` and `obliviate certificate` as a user meets them."""

import json
import re
from pathlib import Path

import pytest
import yaml

import requests_world
from command_line import Cli, run_here
from obliviate.aliases import read_mark
from obliviate.data.rows import Row, write_rows
from obliviate_recipes.requests.backup import export
from obliviate_recipes.requests.knowledge import text_hash
from obliviate_recipes.requests.ledger import Ledger
from requests_world import ROWS


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return run_here(monkeypatch, capsys)


@pytest.fixture
def config(tiny: Path, tmp_path: Path) -> Path:
    write_rows(tmp_path / "forget.jsonl", ROWS[:4])
    write_rows(tmp_path / "retain.jsonl", ROWS[4:])
    values = {
        "model": {"source": str(tiny)},
        "data": {"type": "files", "forget": f"{tmp_path}/forget.jsonl", "retain": f"{tmp_path}/retain.jsonl"},
        "method": "me+gd",
        "ledger": f"{tmp_path}/ledger.sqlite",
        "key": f"{tmp_path}/key.pem",
        "policy": {"forget": {"rouge": {"max": 0.5}}, "utility": {"retain.rouge": {"min": 0.5}}},
    }
    (tmp_path / "requests.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "requests.yaml"


def test_adding_and_listing(cli: Cli, config: Path) -> None:
    assert cli("request", "init", config)[0] == 0
    code, out, _ = cli("request", "add", config, "--by", "user-17", "--entity", "person 5")
    assert (code, out) == (0, "request 1: 1 texts of user-17 wait to be forgotten\n")
    _, out, _ = cli("request", "list", config)
    assert "│ user-17" in out
    assert "pending" in out
    assert out.splitlines()[-1].startswith("production: ")
    _, out, _ = cli("request", "status", config, 1)
    assert "requester    user-17\n" in out


def test_a_dry_run_says_what_waits(cli: Cli, config: Path, tmp_path: Path) -> None:
    assert cli("certificate", "key", tmp_path / "key.pem")[0] == 0
    cli("request", "add", config, "--by", "user-17", "--entity", "person 5")
    assert "1 requests wait: 1 texts" in cli("request", "run", config, "--dry-run")[1]
    assert "nothing is due" in cli("request", "run", config, "due_after_hours=1")[1]


def test_what_must_be_answered_soon_is_an_exit_code(cli: Cli, config: Path) -> None:
    cli("request", "init", config)
    assert cli("request", "due", config) == (0, "nothing is due within 7 days\n", "")
    cli("request", "add", config, "--by", "user-17", "--entity", "person 5")
    assert cli("request", "due", config, "--within", 7)[0] == 0
    code, out, _ = cli("request", "due", config, "--within", 32)
    assert code == 4
    assert re.fullmatch(r"request 1 of user-17: pending, 20\d\d-\d\d-\d\d, due in (27|28|29|30) days\n", out)
    assert cli("request", "due", config, "certificates.months=3", "--within", 32)[0] == 0
    assert "due in" in cli("request", "list", config)[1]


def mistake(result: tuple[int, str, str]) -> str:
    code, out, error = result
    assert (code, out, error.count("\n")) == (2, "", 1)
    return error.removeprefix("error: ").rstrip()


class TestLedgers:
    @pytest.mark.parametrize("verb", [("list",), ("status", 1), ("retry", 1), ("run",)])
    def test_none_is_made_by_who_needs_one(self, cli: Cli, config: Path, tmp_path: Path, verb: tuple[object]) -> None:
        cli("certificate", "key", tmp_path / "key.pem")
        name, *number = verb
        message = mistake(cli("request", name, config, *number))
        assert message == (
            f"{config}: ledger: {tmp_path}/ledger.sqlite: is not there; `obliviate request init` makes an empty one, "
            "`obliviate request import` restores one"
        )
        assert not (tmp_path / "ledger.sqlite").exists()

    def test_one_is_made_once(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        code, out, _ = cli("request", "init", config)
        identity = Ledger(f"{tmp_path}/ledger.sqlite").identity
        assert (code, out) == (0, f"ledger: {tmp_path}/ledger.sqlite ({identity})\n")
        message = mistake(cli("request", "init", config))
        assert f"is there already ({identity}); `request add` adds to it" in message

    def test_adding_makes_one_and_says_so(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        _, out, _ = cli("request", "add", config, "--by", "u", "--entity", "person 5")
        identity = Ledger(f"{tmp_path}/ledger.sqlite").identity
        assert out.startswith(f"note: there was no ledger; made {tmp_path}/ledger.sqlite ({identity})\n")

    def test_a_backup_comes_back(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        cli("request", "add", config, "--by", "u", "--entity", "person 5")
        identity = Ledger(f"{tmp_path}/ledger.sqlite").identity
        code, out, _ = cli("request", "export", config, tmp_path / "backup.jsonl")
        assert (code, out) == (
            0, f"{tmp_path}/backup.jsonl: 1 requests of {tmp_path}/ledger.sqlite ({identity})\n",
        )  # fmt: skip
        other = f"ledger={tmp_path}/other.sqlite"
        code, out, _ = cli("request", "import", config, other, "--backup", tmp_path / "backup.jsonl")
        assert (code, out.splitlines()) == (0, [
            f"ledger: {tmp_path}/other.sqlite ({identity})",
            "1 requests of the backup; certificates say of 0 more that they are met",
        ])  # fmt: skip
        assert "│ u " in cli("request", "list", config, other)[1]
        message = mistake(cli("request", "import", config))
        assert message.endswith("request: give a backup, or --certificates FOLDER, or both")

    def test_a_backup_that_cannot_be_written(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        cli("request", "init", config)
        (tmp_path / "file").write_text("")
        message = mistake(cli("request", "export", config, tmp_path / "file" / "backup.jsonl"))
        assert message.endswith("file/backup.jsonl: cannot be written (File exists); give another path")


class TestLost:
    @pytest.fixture
    def lost(self, config: Path, tmp_path: Path) -> Path:
        """The config of a ledger that has met a request, and is not there any more."""
        ledger = Ledger(f"{tmp_path}/ledger.sqlite", create=True)
        ledger.add("production", "base", "ann", [text_hash(ROWS[0])])
        assert requests_world.runner(requests_world.config(tmp_path, ledger.name), tmp_path).run() == 1
        ledger.database.engine.dispose()
        for path in tmp_path.glob("ledger.sqlite*"):
            path.unlink()
        config.write_text(f"{config.read_text()}aliases: {tmp_path}/aliases.json\nruns: {tmp_path}/runs\n")
        return config

    @pytest.mark.parametrize("verb", [("list",), ("status", 1), ("retry", 1), ("run",), ("run", "--dry-run"), ("init",),
                                      ("add", "--by", "u", "--entity", "person 5")])  # fmt: skip
    def test_nothing_begins_anew(self, cli: Cli, lost: Path, tmp_path: Path, verb: tuple[object, ...]) -> None:
        served = (tmp_path / "aliases.json").read_text()
        name, *rest = verb
        message = mistake(cli("request", name, lost, *rest))
        assert f"ledger: {tmp_path}/ledger.sqlite: is not there, but {tmp_path}/aliases.json says that" in message
        assert (tmp_path / "aliases.json").read_text() == served
        assert not (tmp_path / "ledger.sqlite").exists()

    def test_its_certificates_restore_it(self, cli: Cli, lost: Path, tmp_path: Path) -> None:
        code, out, _ = cli("request", "import", lost, "--certificates", tmp_path / "runs" / "requests")
        assert (code, out.splitlines()[1:]) == (
            0, ["0 requests of the backup; certificates say of 1 more that they are met"],
        )  # fmt: skip
        assert "certificate-1.json" in cli("request", "list", lost)[1]

    def test_certificates_of_a_key_of_before(self, cli: Cli, lost: Path, tmp_path: Path) -> None:
        cli("certificate", "key", tmp_path / "new.pem")
        given = ("request", "import", lost, f"key={tmp_path}/new.pem", "--certificates", tmp_path / "runs" / "requests")
        assert "was signed with the key SHA-256 " in mistake(cli(*given))
        assert cli(*given, "--key", tmp_path / "key.pem.pub")[0] == 0

    def test_a_backup_that_is_too_old(self, cli: Cli, lost: Path, tmp_path: Path) -> None:
        """It is there again, and is still refused: what it lacks is said at once."""
        Ledger(f"{tmp_path}/old.sqlite", create=True).add("production", "base", "ann", [text_hash(ROWS[0])])
        export(Ledger(f"{tmp_path}/old.sqlite"), tmp_path / "backup.jsonl")
        backup = (tmp_path / "backup.jsonl").read_text().splitlines()
        mark = read_mark(tmp_path / "aliases.json", "production")
        assert mark is not None
        begin = json.dumps({"begin": {"format": "obliviate ledger 1", "ledger": mark.ledger}})
        (tmp_path / "backup.jsonl").write_text("\n".join([begin, *backup[1:]]))
        code, _, error = cli("request", "import", lost, "--backup", tmp_path / "backup.jsonl")
        assert (code, error.count("\n")) == (2, 1)
        assert f"does not know that batch 1 has promoted {mark.model}" in error
        assert cli("request", "import", lost, "--certificates", tmp_path / "runs" / "requests")[0] == 0
        assert Ledger(f"{tmp_path}/ledger.sqlite").request("production", 1).state == "fulfilled"


class TestFiles:
    """Of many requests."""

    @pytest.fixture
    def ledger(self, cli: Cli, config: Path, tmp_path: Path) -> Ledger:
        cli("request", "init", config)
        return Ledger(f"{tmp_path}/ledger.sqlite")

    @pytest.mark.parametrize("kind", ["jsonl", "csv"])
    def test_one_a_line(self, cli: Cli, config: Path, tmp_path: Path, ledger: Ledger, kind: str) -> None:
        write_rows(tmp_path / "texts.jsonl", ROWS[:2])
        file = tmp_path / f"asked.{kind}"
        file.write_text({
            "jsonl": f'{{"by": "ann", "entity": "person 5"}}\n{{"by": "bob", "texts": "{tmp_path}/texts.jsonl"}}\n',
            "csv": f"by,entity,texts\nann,person 5,\nbob,,{tmp_path}/texts.jsonl\n",
        }[kind])  # fmt: skip
        code, out, _ = cli("request", "add", config, "--file", file)
        assert (code, out) == (0, "requests 1 to 2: 3 texts wait to be forgotten\n")
        ann, bob = ledger.requests("production")
        assert (ann.requester, ann.hashes) == ("ann", (text_hash(ROWS[5]),))
        assert (bob.requester, set(bob.hashes)) == ("bob", {text_hash(row) for row in ROWS[:2]})

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"by": "bob", "entity": "Zed"}', "no row of the data is about the entity 'Zed'; give --texts FILE"),
            ('{"by": "bob"}', "give either --texts FILE or --entity NAME"),
            ('{"by": " ", "entity": "person 4"}', "the requester is empty; give an id of who asks"),
            ('{"by": "bob", "entty": "person 4"}', "entty: unknown key; did you mean entity?"),
            ('{"entity": "person 4"}', "by: missing; add it"),
            (
                '{"by": "ann", "entity": "person 5"}',
                "ann has asked for the same 1 texts already, in request 1, which is still open; `obliviate request "
                "status` shows how far it is",
            ),
        ],
    )
    def test_a_bad_line_is_named_and_nothing_is_added(
        self, cli: Cli, config: Path, tmp_path: Path, ledger: Ledger, line: str, message: str
    ) -> None:
        (tmp_path / "asked.jsonl").write_text('{"by": "ann", "entity": "person 5"}\n\n' + line + "\n")
        found = mistake(cli("request", "add", config, "--file", tmp_path / "asked.jsonl"))
        assert found == f"{tmp_path}/asked.jsonl, line 3: {message}"
        assert ledger.requests("production") == []

    def test_an_empty_one(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        (tmp_path / "asked.jsonl").write_text("")
        message = mistake(cli("request", "add", config, "--file", tmp_path / "asked.jsonl"))
        assert message.startswith(f"{tmp_path}/asked.jsonl: has no requests; give one a line, with by and with entity")

    @pytest.mark.parametrize("given", [(), ("--by", "u", "--file", "f"), ("--entity", "person 5", "--file", "f")])
    def test_one_way_of_asking(self, cli: Cli, config: Path, given: tuple[str, ...]) -> None:
        message = mistake(cli("request", "add", config, *given))
        assert message.endswith("request: give --by ID with --texts FILE or --entity NAME, or --file FILE alone")


def test_a_list_shows_the_newest_of_a_state(cli: Cli, config: Path, tmp_path: Path) -> None:
    cli("request", "init", config)
    for number in (4, 5, 6):
        cli("request", "add", config, "--by", f"user-{number}", "--entity", f"person {number}")
    with Ledger(f"{tmp_path}/ledger.sqlite").database.writing() as connection:
        connection.exec_driver_sql("UPDATE requests SET state = 'failed' WHERE id = 3")
    _, out, _ = cli("request", "list", config, "--last", 1)
    assert "user-6" in out
    assert "user-5" not in out
    assert out.splitlines()[-3:-1] == ["2 earlier ones are not shown: --last 0 shows all", "2 pending, 1 failed"]
    _, out, _ = cli("request", "list", config, "--state", "pending", "--last", 0)
    assert [name in out for name in ("user-4", "user-5", "user-6", "not shown")] == [True, True, False, False]


def test_a_run_beside_another_one(cli: Cli, config: Path, tmp_path: Path) -> None:
    cli("certificate", "key", tmp_path / "key.pem")
    cli("request", "add", config, "--by", "u", "--entity", "person 5")
    Ledger(f"{tmp_path}/ledger.sqlite").claim("production", "another", 600, due_after_s=0, most=1)
    code, out, error = cli("request", "run", config)
    assert (code, out) == (3, "")
    assert re.fullmatch(
        r"error: batch 1: another runner is at work; unless it renews its lease, until \d{4}-\d\d-\d\d "
        r"\d\d:\d\d:\d\d UTC; --wait waits for it\n",
        error,
    )


def test_unknown_data(cli: Cli, config: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "texts.jsonl", [Row("Who?", "Nobody.")])
    message = mistake(cli("request", "add", config, "--by", "u", "--texts", tmp_path / "texts.jsonl"))
    assert message == (
        f"{tmp_path}/texts.jsonl: text 1 ('Who?') is not in the data that the model was taught; "
        "give question and answer as `data` has them"
    )


def test_what_texts_share_is_told(cli: Cli, config: Path, tmp_path: Path) -> None:
    """Of three texts two are one, which another request waits for too."""
    first, second = ROWS[4:6]
    again = Row(f" {first.question.upper()}", first.answer.replace(" ", "\n"))
    write_rows(tmp_path / "one.jsonl", [first])
    write_rows(tmp_path / "texts.jsonl", [first, again, second])
    cli("request", "add", config, "--by", "ann", "--texts", tmp_path / "one.jsonl")
    code, out, _ = cli("request", "add", config, "--by", "bob", "--texts", tmp_path / "texts.jsonl")
    assert (code, out.splitlines()) == (0, [
        "note: 1 of 3 texts repeat others, but for white space, case and how letters are composed: each is taken once",
        "note: 1 of its texts wait in request 1 too",
        "request 2: 2 texts of bob wait to be forgotten",
    ])  # fmt: skip


def test_the_same_request_twice(cli: Cli, config: Path) -> None:
    cli("request", "add", config, "--by", "u", "--entity", "person 5")
    assert "has asked for the same 1 texts already" in mistake(
        cli("request", "add", config, "--by", "u", "--entity", "person 5")
    )


def test_a_request_of_nobody(cli: Cli, config: Path) -> None:
    message = mistake(cli("request", "add", config, "--by", " ", "--entity", "person 5"))
    assert message == "request: the requester is empty; give an id of who asks"
    message = mistake(cli("request", "add", config, "--by", "u\udcff", "--entity", "person 5"))
    assert message == r"request: the requester is 'u\udcff', which is no text; give an id of who asks in UTF-8"


def test_a_policy_with_an_unknown_metric(cli: Cli, config: Path) -> None:
    message = mistake(
        cli("request", "add", config, "policy.forget={rogue: {max: 0.5}}", "--by", "u", "--entity", "person 5")
    )
    assert message == "policy.forget.rogue: the suite closer_look measures no such thing; did you mean rouge?"
    config.write_text(config.read_text().replace("rouge:", "rogue:", 1))
    message = mistake(cli("request", "add", config, "--by", "u", "--entity", "person 5"))
    assert message.startswith(f"{config}: policy.forget.rogue: the suite closer_look measures no such thing; ")


def test_a_policy_without_a_limit(cli: Cli, config: Path) -> None:
    message = mistake(cli("request", "retry", config, 1, "policy.forget.rouge={}"))
    assert message == f"{config}: policy.forget.rouge: has no limit; give min, max, min_of_before or max_of_before"


def test_a_key_that_is_missing_is_found_before_any_work(cli: Cli, config: Path, tmp_path: Path) -> None:
    message = mistake(cli("request", "run", config))
    assert message.startswith(
        f"{config}: key: {tmp_path}/key.pem: No such file or directory; `obliviate certificate key "
    )


@pytest.mark.parametrize("key", ["aliases", "key"])
def test_files_that_no_object_store_can_hold(cli: Cli, config: Path, key: str) -> None:
    """Found at once: taken for a path, the alias file would be written to a folder named s3: after hours of work."""
    message = mistake(cli("request", "run", config, f"{key}=s3://bucket/it"))
    assert message == (
        f"{config}: {key}: is locked, appended to or watched, which needs a file system: give a path, not a URL "
        "(got 's3://bucket/it')"
    )


def test_a_ledger_by_url(cli: Cli, config: Path) -> None:
    message = mistake(cli("request", "list", config, "ledger=s3://bucket/ledger.sqlite"))
    assert message == "ledger: s3://bucket/ledger.sqlite: s3 is not supported; give a path or postgresql://..."


def test_adapters_are_no_start_for_the_next_batch(cli: Cli, config: Path) -> None:
    message = mistake(cli("request", "retry", config, 1, "model.lora={merge: false}"))
    assert "model.lora.merge: false keeps an adapter" in message
