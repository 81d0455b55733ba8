"""`obliviate request` and `obliviate certificate` as a user meets them."""

from pathlib import Path

import pytest
import yaml

from command_line import Cli, run_here
from obliviate.data.rows import Row, write_rows
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


def mistake(result: tuple[int, str, str]) -> str:
    code, out, error = result
    assert (code, out, error.count("\n")) == (2, "", 1)
    return error.removeprefix("error: ").rstrip()


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
    assert message == "request: --by is empty; give an id of who asks"
    message = mistake(cli("request", "add", config, "--by", "u\udcff", "--entity", "person 5"))
    assert message == r"request: --by is 'u\udcff', which is no text; give an id of who asks in UTF-8"


def test_a_policy_with_an_unknown_metric(cli: Cli, config: Path) -> None:
    message = mistake(
        cli("request", "add", config, "policy.forget={rogue: {max: 1}}", "--by", "u", "--entity", "person 5")
    )
    assert message == "policy.forget.rogue: the suite closer_look measures no such thing; did you mean rouge?"
    config.write_text(config.read_text().replace("rouge:", "rogue:", 1))
    message = mistake(cli("request", "add", config, "--by", "u", "--entity", "person 5"))
    assert message.startswith(f"{config}: policy.forget.rogue: the suite closer_look measures no such thing; ")


def test_a_policy_without_a_limit(cli: Cli, config: Path) -> None:
    message = mistake(cli("request", "list", config, "policy.forget.rouge={}"))
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
    message = mistake(cli("request", "list", config, "model.lora={merge: false}"))
    assert "model.lora.merge: false keeps an adapter" in message
