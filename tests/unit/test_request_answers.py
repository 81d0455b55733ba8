"""Answers beside a certificate: a request is extended, refused, and in the end its texts are purged."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import requests_world
from command_line import Cli, run_here
from obliviate.data.rows import Row, write_rows
from obliviate.runs import write_json
from obliviate_recipes.requests.certificate import verify
from obliviate_recipes.requests.database import count_on
from obliviate_recipes.requests.knowledge import text_hash
from obliviate_recipes.requests.ledger import Ledger
from obliviate_recipes.requests.lineage import Runs, that_know
from obliviate_recipes.requests.restoring import restore_ledger
from requests_world import ROWS

SECRET = Row('What does "Ann" keep?', "Ann keeps Zoë's <blue> key.", entity="Ann")
DATA = (SECRET, *ROWS[1:])


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return run_here(monkeypatch, capsys)


@pytest.fixture
def config(tmp_path: Path, cli: Cli) -> Path:
    cli("certificate", "key", tmp_path / "key.pem")
    write_rows(tmp_path / "all.jsonl", DATA)
    write_rows(tmp_path / "retain.jsonl", ROWS[:1])
    values = {
        "model": {"source": "base"},
        "data": {"type": "files", "forget": f"{tmp_path}/all.jsonl", "retain": f"{tmp_path}/retain.jsonl"},
        "method": "me+gd",
        "runs": f"{tmp_path}/runs",
        "ledger": f"{tmp_path}/ledger.sqlite",
        "aliases": f"{tmp_path}/aliases.json",
        "key": f"{tmp_path}/key.pem",
        "policy": {"forget": {"forget_efficacy": {"min": 0.9}}, "utility": {"model_utility": {"min_of_before": 0.9}}},
        "certificates": {"issuer": "Example Ltd", "complaints": "the authority of the land"},
    }
    (tmp_path / "requests.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "requests.yaml"


def ledger(folder: Path) -> Ledger:
    return Ledger(str(folder / "ledger.sqlite"), create=True)


def waiting(folder: Path) -> Ledger:
    """With request 1, for SECRET."""
    found = ledger(folder)
    found.add("production", "base", "ann", [text_hash(SECRET)])
    return found


def fulfilled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    found = waiting(folder)
    monkeypatch.setattr(requests_world, "ROWS", DATA)
    requests_world.runner(requests_world.config(folder, str(folder / "ledger.sqlite")), folder).run()
    return found


class TestExtended:
    def test_it_is_due_later_and_says_why(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        waiting(tmp_path)
        assert cli("request", "due", config, "--within", 32)[0] == 4
        code, out, _ = cli("request", "extend", config, 1, "--reason", "many requests at once")
        assert (code, out.partition(": ")[0]) == (0, "request 1")
        assert cli("request", "due", config, "--within", 32)[0] == 0
        assert "many requests at once" in cli("request", "status", config, 1)[1]
        code, _, error = cli("request", "extend", config, 1, "--reason", "again")
        assert (code, "was extended already, because: many requests" in error) == (2, True)

    def test_the_certificate_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        waiting(tmp_path).extend("production", 1, "a lost key", told_before_s=1e11)
        monkeypatch.setattr(requests_world, "ROWS", DATA)
        requests_world.runner(requests_world.config(tmp_path, str(tmp_path / "ledger.sqlite")), tmp_path).run()
        path = Path(str(ledger(tmp_path).request("production", 1).certificate))
        clock = verify(path)[0]["clock"]
        assert clock["extended"]["reason"] == "a lost key"
        months = [int(clock[when][5:7]) for when in ("received", "due")]
        assert (months[1] - months[0]) % 12 == 3
        assert "a lost key" in path.with_suffix(".html").read_text()

    def test_not_after_the_first_deadline(self, tmp_path: Path) -> None:
        from obliviate.errors import UserError

        with pytest.raises(UserError, match=r"^request 1: was due on 1970-01-12; an extension must be told before$"):
            waiting(tmp_path).extend("production", 1, "late", told_before_s=1e6)


class TestRefused:
    def test_a_signed_notice_says_why_and_where_to_complain(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        waiting(tmp_path)
        code, out, _ = cli("request", "refuse", config, 1, "--reason", "not <about> who asked")
        notice = Path(out.split()[-1])
        assert code == 0
        statement, _ = verify(notice)
        assert statement["refused"]["reason"] == "not <about> who asked"
        assert statement["notice"]["complaints"] == "the authority of the land"
        page = notice.with_suffix(".html").read_text()
        assert "not &lt;about&gt; who asked" in page
        assert "the authority of the land" in page
        _, out, _ = cli("certificate", "verify", notice, "--key", tmp_path / "key.pem.pub")
        assert out.startswith("valid: 1 texts of ann, refused 2")
        assert "refused" in cli("request", "list", config)[1]
        assert cli("request", "due", config, "--within", 99)[0] == 0
        assert "nothing is due" in cli("request", "run", config)[1]
        code, _, error = cli("request", "refuse", config, 1, "--reason", "again")
        assert (code, error.startswith("error: request 1: is refused already: ")) == (2, True)

    def test_it_is_no_certificate_to_restore_from(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        waiting(tmp_path)
        notice = cli("request", "refuse", config, 1, "--reason", "no")[1].split()[-1]
        code, _, error = cli("request", "import", config, "--certificates", notice)
        assert (code, "is the notice of a refusal, not a certificate" in error) == (2, True)

    def test_the_same_person_may_ask_again(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        found = waiting(tmp_path)
        cli("request", "refuse", config, 1, "--reason", "no")
        assert found.add("production", "base", "ann", [text_hash(SECRET)]) == 2

    def test_a_backup_has_answers_and_notes(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        waiting(tmp_path).extend("production", 1, "why", told_before_s=1e11)
        cli("request", "refuse", config, 1, "--reason", "no")
        assert cli("request", "export", config, tmp_path / "backup.jsonl")[0] == 0
        again = Ledger(str(tmp_path / "again.sqlite"), create=True)
        restore_ledger(again, "production", tmp_path / "backup.jsonl", [], [])
        assert again.request("production", 1) == ledger(tmp_path).request("production", 1)
        with again.database.writing() as connection:
            count_on(connection)


def grep(folder: Path) -> list[str]:
    """Every file below that holds the secret's answer in some writing, by itself or in its cells."""
    found = []
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        if path.suffix == ".parquet":
            content = json.dumps(pq.read_table(path).to_pylist(), ensure_ascii=False).encode()
        if any(
            each in content for each in ("Zoë's".encode(), rb"Zo\u00eb's", "Zoë&#39;s".encode(), "Zoë&#x27;s".encode())
        ):
            found.append(path.name)
    return found


def scattered(runs: Path) -> None:
    """Runs that hold the texts in each way that there is, and others that don't."""
    write_json(runs / "evaluate-a-1" / "run.json", {"verb": "evaluate", "config": {"model": {"source": "base"}}})
    pq.write_table(
        pa.Table.from_pylist([{"item": {"question": SECRET.question, "answers": [SECRET.answer]}}]),
        runs / "evaluate-a-1" / "records.parquet",
    )
    write_json(runs / "evaluate-a-1" / "metrics.json", {"rouge": 0.3})
    write_json(runs / "compare-b-2" / "run.json", {"verb": "compare", "made_of": {"evaluate-a-1": "hash"}})
    (runs / "compare-b-2" / "report.html").write_text("compressed rows")
    (runs / "compare-b-2" / "report.json").write_text(json.dumps({"q": SECRET.question, "a": SECRET.answer}))
    write_json(runs / "compare-c-3" / "run.json", {"verb": "compare", "made_of": {}})
    (runs / "compare-c-3" / "report.html").write_text("others")
    (runs / "loose.gz").write_bytes(gzip.compress(f"{SECRET.question}\n{SECRET.answer}".encode()))
    write_json(runs / "finetune-d-4" / "run.json", {"verb": "finetune", "config": {"model": {"source": "base"}}})
    (runs / "finetune-d-4" / "model").mkdir()
    (runs / "finetune-d-4" / "model" / "model.safetensors").write_bytes(b"weights that know")


class TestPurged:
    def test_no_file_has_the_texts_afterwards(
        self, cli: Cli, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found, runs = fulfilled(tmp_path, monkeypatch), tmp_path / "runs"
        scattered(runs)
        assert len(grep(runs)) >= 5
        assert cli("request", "purge", config)[1].startswith("nothing to purge: no request was fulfilled 30 days ago")
        _, out, _ = cli("request", "purge", config, "retention.days=0", "--dry-run")
        assert "request 1: would go: " in out
        assert len(grep(runs)) >= 5
        code, out, _ = cli("request", "purge", config, "--request", 1)
        assert code == 0
        assert grep(runs) == []
        assert not (runs / "compare-b-2" / "report.html").exists()
        assert (runs / "compare-c-3" / "report.html").exists()
        assert (runs / "evaluate-a-1" / "metrics.json").exists()
        assert (runs / "finetune-d-4" / "model" / "model.safetensors").exists()
        assert "1 of its texts are in the data still" in out
        (note,) = found.request("production", 1).notes
        assert {Path(line).name for line in note.lines.splitlines()} >= {
            "records.parquet",
            "request-1.jsonl",
            "loose.gz",
        }
        assert "purged" in cli("request", "status", config, 1)[1]
        assert cli("request", "purge", config, "retention.days=0")[1].startswith("nothing to purge")
        assert verify(Path(str(found.request("production", 1).certificate)))[0]["left"]["days"] == 30

    def test_weights_that_know_go_where_the_policy_says_so(
        self, cli: Cli, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fulfilled(tmp_path, monkeypatch)
        scattered(tmp_path / "runs")
        out = cli("request", "purge", config, "--request", 1, "retention.old_models=true")[1]
        assert "finetune-d-4/model" in out
        assert not (tmp_path / "runs" / "finetune-d-4" / "model").exists()

    def test_what_has_no_certificate_is_not_purged(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        waiting(tmp_path)
        code, _, error = cli("request", "purge", config, "--request", 1)
        assert (code, error) == (2, "error: request 1: is pending; only the texts of fulfilled ones can go\n")

    def test_one_that_is_killed_is_begun_again(
        self, cli: Cli, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from obliviate import storage

        fulfilled(tmp_path, monkeypatch)
        scattered(tmp_path / "runs")
        remove, gone = storage.remove_file, []

        def dies(path: Path) -> None:
            if gone:
                raise KeyboardInterrupt
            gone.append(path)
            remove(path)

        monkeypatch.setattr(storage, "remove_file", dies)
        cli("request", "purge", config, "retention.days=0")
        monkeypatch.setattr(storage, "remove_file", remove)
        assert grep(tmp_path / "runs") != []
        assert cli("request", "purge", config, "retention.days=0")[0] == 0
        assert grep(tmp_path / "runs") == []


def test_the_models_that_still_know(tmp_path: Path) -> None:
    """base -> taught -> {copy, unlearned -> later}; of the last two none does."""
    made = {
        "taught": {},
        "copy": {"taught": ""},
        "unlearned": {"taught": ""},
        "later": {"unlearned": ""},
        "eval": {"taught": ""},
    }
    for name, of in made.items():
        write_json(tmp_path / name / "run.json", {"made_of": of, "config": {}})
        if name != "eval":
            (tmp_path / name / "model").mkdir()
            (tmp_path / name / "model" / "model.safetensors").write_bytes(b"")
    runs = Runs.read(tmp_path)
    found = that_know(runs, [str(tmp_path / "taught" / "model")], str(tmp_path / "unlearned" / "model"))
    assert found == {"copy": ["model"], "taught": ["model"]}
