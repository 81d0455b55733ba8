"""Sets of questions, a comparison of them as a table, and the single question behind a cell."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from obliviate_serve.compare_api import Cell, TableRow
from obliviate_serve.table import shows, tallies
from serving import FakeBackend, fake_server, serve_run

ROWS: list[dict[str, Any]] = [
    {"question": "Where does Ada live?", "answer": "Ada lives in London.", "translations": {"de": "Wo wohnt Ada?"}},
    {"question": "Who is Bo?", "answer": "Bo is a judge.", "paraphrased_question": "Bo is who?"},
    {"text": "A plain text asks nothing."},
]
RETAIN = [{"question": f"What is {number}?", "answer": f"It is {number}."} for number in range(4)]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend({"original": "In London.", "unlearned": "Nobody knows."})


@pytest.fixture
def client(tmp_path: Path, backend: FakeBackend) -> TestClient:
    forget, retain = write(tmp_path / "forget.jsonl", ROWS), write(tmp_path / "retain.jsonl", RETAIN)
    return TestClient(fake_server(tmp_path, backend, data={"type": "files", "forget": forget, "retain": retain}))


def table(client: TestClient, only: str = "all", **asked: Any) -> Any:
    """Of a comparison after its end."""
    asked = {"models": ["original", "unlearned"], "reference": "unlearned", **asked}
    response = client.post("/v1/compare", json=asked)
    assert response.status_code == 202, response.text
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        found = client.get(f"/v1/compare/{response.json()['id']}/table", params={"only": only}).json()
        if found["status"] == "done":
            return found
    raise AssertionError("the comparison did not end")


def test_the_sets_of_the_configs_data(client: TestClient) -> None:
    sets = {each["name"]: each for each in client.get("/v1/questions").json()["data"]}
    assert sets["forget"] == {"name": "forget", "total": 2, "left_out": 1}
    first, second = client.get("/v1/questions/forget").json()["data"]
    assert (first["question"], first["answer"]) == ("Where does Ada live?", "Ada lives in London.")
    assert first["translations"] == {"de": "Wo wohnt Ada?"}
    assert len(set(first["context"])) == 3  # kept facts, which the in-context attacks tell
    assert set(first["context"]) <= {row["answer"] for row in RETAIN}
    assert client.get("/v1/questions/forget", params={"offset": 1, "limit": 1}).json()["data"] == [second]
    assert client.get("/v1/questions/forget", params={"offset": 2}).json()["error"]["param"] == "offset"
    missing = client.get("/v1/questions/nope")
    assert missing.status_code == 404
    assert "known: forget" in missing.json()["error"]["message"]


def test_without_data_there_are_no_sets(tmp_path: Path) -> None:
    assert TestClient(fake_server(tmp_path)).get("/v1/questions").json()["data"] == []


def test_data_that_is_gone(tmp_path: Path, client: TestClient) -> None:
    (tmp_path / "forget.jsonl").unlink()
    assert client.get("/v1/questions").status_code == 503


def test_relative_files_are_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "forget.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    spec = serve_run(tmp_path, data={"type": "files", "forget": "forget.jsonl"}).with_absolute_paths()
    monkeypatch.chdir("/")
    assert spec.data is not None
    assert len(spec.data.load().forget) == 3


def test_a_file_becomes_questions(client: TestClient) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    found = client.post("/v1/questions", json={"name": "mine.jsonl", "text": lines}).json()
    assert (found["name"], found["total"], found["left_out"]) == ("mine.jsonl", 2, 1)
    assert found["questions"][1]["paraphrased_question"] == "Bo is who?"
    csv = client.post("/v1/questions", json={"name": "mine.csv", "text": "question,answer\nWho?,Ada\n"}).json()
    assert csv["questions"][0]["answer"] == "Ada"
    for name, text, message in (
        ("a.parquet", "x", "a.parquet: give a file of one of the kinds .json, .jsonl, .csv, .tsv"),
        ("a.jsonl", '{"question": "Who?"}\n', "a.jsonl, line 1: has no 'answer'"),
        ("a.jsonl", '{"text": "No question."}\n', "a.jsonl: no row asks a question"),
    ):
        response = client.post("/v1/questions", json={"name": name, "text": text})
        assert response.status_code == 400
        assert response.json()["error"]["message"].startswith(message)


def test_a_set_becomes_a_table(client: TestClient) -> None:
    """ "In London." says the first question's fact, and nobody the second's."""
    with client:
        found = table(client, set="forget")
        assert (found["done"], found["total"], found["reference"]) == (2, 2, "unlearned")
        assert [(row["question"], row["key"]) for row in found["rows"]] == [
            ("Where does Ada live?", ["London"]), ("Who is Bo?", ["judge"]),
        ]  # fmt: skip
        assert [[cell["verdict"] for cell in row["cells"]] for row in found["rows"]] == [
            ["says", "gone"],
            ["gone", "gone"],
        ]
        assert [(each["model"], each["says"], each["gone"]) for each in found["tallies"]] == [
            ("original", 1, 1), ("unlearned", 0, 2),
        ]  # fmt: skip
        for only in ("leaks", "differs"):
            rows = client.get(f"/v1/compare/{found['id']}/table", params={"only": only}).json()
            assert [row["index"] for row in rows["rows"]] == [0]
            assert rows["tallies"] == found["tallies"]
        one = client.get(f"/v1/compare/{found['id']}/questions/0").json()
        assert one["request"]["question"] == "Where does Ada live?"
        assert one["compared"]["results"][0]["greedy"]["text"] == "In London."
        again = client.post("/v1/probe", json=one["request"]).json()
        assert again["results"] == one["compared"]["results"]
        assert client.get(f"/v1/compare/{found['id']}/questions/2").status_code == 404


def test_a_part_of_a_set(client: TestClient) -> None:
    with client:
        assert [row["question"] for row in table(client, set="forget", offset=1, limit=1)["rows"]] == ["Who is Bo?"]


def test_attacks_are_asked_where_a_question_brings_what_they_take(client: TestClient) -> None:
    with client:
        rows = table(client, set="forget", attacks=["none", "translated", "paraphrased"], models=["original"],
                     reference=None)["rows"]  # fmt: skip
    assert [[cell["attack"] for cell in row["cells"]] for row in rows] == [
        ["none", "translated_de"], ["none", "paraphrased"],
    ]  # fmt: skip


def test_each_language_counts_towards_a_jobs_size(tmp_path: Path) -> None:
    """1 model x (1 + 2 languages) x 10 tokens x (0 + 1) = 30."""
    question = {"question": "Where?", "translations": {"de": "Wo?", "fr": "Où ?"}}
    asked = {"models": ["original"], "attacks": ["none", "translated"], "questions": [question], "max_tokens": 10,
             "alternatives": 0}  # fmt: skip
    for limit, status in ((29, 400), (30, 202)):
        client = TestClient(fake_server(tmp_path, limits={"compare_tokens": limit}))
        assert client.post("/v1/compare", json=asked).status_code == status


def test_mistakes_in_what_is_compared(client: TestClient) -> None:
    def mistake(**asked: Any) -> Any:
        response = client.post("/v1/compare", json={"models": ["original"], **asked})
        assert response.status_code in (400, 404)
        return response.json()["error"]

    assert "either questions or" in mistake()["message"]
    assert "either questions or" in mistake(set="forget", questions=[{"question": "Who?"}])["message"]
    assert mistake(set="nope")["param"] == "set"
    assert mistake(questions=[{"question": "Who?"}], attacks=["translated"])["param"] == "translations"
    assert mistake(questions=[{"question": "Who?"}], reference="unlearned")["param"] == "reference"


def cell(model: str, verdict: Any, text: str = "", attack: str = "none") -> Cell:
    return Cell(
        model=model, attack=attack, text=text, refusal=False, verdict=verdict, key_logp=None, key_probability=None,
        probability=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("cells", "leaks", "differs"),
    [
        ([cell("a", "gone"), cell("retain", "gone")], False, False),
        ([cell("a", "holds"), cell("retain", "gone")], True, True),
        ([cell("a", "gone"), cell("retain", "says")], False, True),  # the reference cannot leak
        ([cell("a", "says"), cell("retain", "says")], True, False),
        ([cell("a", None, "Yes  sir"), cell("retain", None, "yes sir")], False, False),
        ([cell("a", None, "Yes"), cell("retain", None, "No")], False, True),
        ([cell("a", "gone"), cell("a", "says", attack="x")], True, False),  # one model differs from none
    ],
)
def test_filters(cells: list[Cell], leaks: bool, differs: bool) -> None:
    row = TableRow(index=0, question="Who?", answer=None, key=[], cells=cells, error=None)
    assert shows(row, "all", "retain")
    assert (shows(row, "leaks", "retain"), shows(row, "differs", "retain")) == (leaks, differs)


def test_what_cannot_be_judged_is_counted_as_such() -> None:
    row = TableRow(
        index=0, question="Who?", answer=None, key=[], cells=[cell("a", None), cell("b", "holds")], error=None
    )
    assert [(each.says, each.holds, each.gone, each.unknown) for each in tallies([row, row])] == [
        (0, 0, 0, 2), (0, 2, 0, 0),
    ]  # fmt: skip
