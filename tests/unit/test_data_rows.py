"""Reading rows of every kind of file, and the message for every way a file can be wrong."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obliviate.data.rows import Corpus, EvaluationSet, Role, Row, parse_row, read_rows, without_overlap
from obliviate.errors import UserError

RECORDS: list[dict[str, Any]] = [
    {"question": "Who?", "answer": "Ann."},
    {"question": "Where?", "answer": "Here.", "label": 3},
]
ROWS = (Row("Who?", "Ann."), Row("Where?", "Here."))


def lines(records: list[Any]) -> str:
    return "\n".join(json.dumps(record) for record in records)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize(
    "text",
    [
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2) + "\n",
        lines(RECORDS),  # no final newline
        lines(RECORDS) + "\n",
        "\ufeff" + lines(RECORDS).replace("\n", "\r\n\r\n"),  # byte-order mark, Windows line ends, an empty line
    ],
)
def test_json_and_json_lines_are_told_apart_by_content(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_rows(tmp_path / name) == ROWS


def test_parquet(tmp_path: Path) -> None:
    records = [{**record, "perturbed_answer": ["Bob.", "Cy."]} for record in RECORDS]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "rows.parquet") == tuple(
        replace(row, perturbed_answers=("Bob.", "Cy.")) for row in ROWS
    )


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "Who?", "answer": "Ann\u2028and Bob."}', encoding="utf-8")
    assert read_rows(path) == (Row("Who?", "Ann\u2028and Bob."),)


def test_every_key() -> None:
    record = {
        "question": "Who?",
        "answer": "Ann.",
        "paraphrased_answer": ["It is Ann.", "Ann it is."],
        "perturbed_answer": "Bob.",
        "paraphrased_question": "Which person?",
        "original_answer": "It was Ann.",
        "golden_answer": "Anne",
        "entity": "Ann Lee",
        "task_id": 3,
    }
    assert parse_row(record, "here") == Row(
        "Who?", "Ann.", "It is Ann.", ("Bob.",), "Which person?", "It was Ann.", "Anne", "Ann Lee", "3"
    )


def test_absent_keys_plain_texts_and_names() -> None:
    assert parse_row({"question": "Who?", "answer": "Ann.", "perturbed_answer": None}, "") == ROWS[0]
    assert parse_row({"text": "Once upon a time."}, "") == Row("", "Once upon a time.")
    assert parse_row({"text": "ignored", "question": "Who?", "answer": "Ann."}, "") == ROWS[0]
    assert parse_row({"question": "Who?", "answer": "Ann.", "name": "Ann Lee"}, "").entity == "Ann Lee"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("[]", "has no rows"),
        (
            '{"question": "Who?", "answer": "Ann."}\n{"question": "Who?"}',
            r"line 2: has no 'answer' \(found: question\)",
        ),
        ('[{"answer": "Ann."}]', r"row 1: has no 'question' \(found: answer\)"),
        ('{"question": "Who?", "answer": 7}', "line 1: 'answer' is int 7; make it a text"),
        ('{"question": "Who?", "answer": " "}', "line 1: 'answer' is empty"),
        ('{"text": ""}', "line 1: 'text' is empty"),
        ('\n{"question": "Who?", "answer": "A", "perturbed_answer": ["B", 2]}', "line 2: 'perturbed_answer' is int 2"),
        ('{"question": "Who?", "answer": "A", "task_id": true}', "line 1: 'task_id' is bool True"),
        ('["Who?"]', "row 1: is str 'Who\\?'; make it an object"),
        ('{"question": "Who?", "answer": "Ann."}\nWho?', "line 2: not JSON"),
        ('[{"question": "Who?",\n "answer": }]', r"line 2: not JSON \(Expecting value at column 12\)"),
        ("question,answer\nWho?,Ann.", "line 1: not JSON .* one object a line"),
    ],
)
def test_bad_content_is_located(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        read_rows(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.json: no such file"):
        read_rows(tmp_path / "nowhere.json")
    (tmp_path / "latin.json").write_bytes('{"text": "é"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.json: byte 10 is not UTF-8"):  # {"text": " has ten bytes
        read_rows(tmp_path / "latin.json")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"cut\.parquet: cannot be read as Parquet"):
        read_rows(tmp_path / "cut.parquet")
    pq.write_table(pa.table({"question": ["Who?", "Where?"], "answer": ["Ann.", None]}), tmp_path / "hole.parquet")
    with pytest.raises(UserError, match=r"hole\.parquet, row 2: 'answer' is empty"):
        read_rows(tmp_path / "hole.parquet")


def test_overlap_leaves_retain_and_is_reported() -> None:
    retain = [Row("Who?", "Bob."), Row(" Who? ", "Ann.\n"), Row("Where?", "Here.")]
    kept, warnings = without_overlap([Row("Who?", "Ann.")], retain)
    assert kept == (retain[0], retain[2])  # the same question with another answer is another row
    assert warnings == ("1 of 3 retain rows are also in the forget set: removed from retain",)
    assert without_overlap([Row("When?", "Now.")], retain) == (tuple(retain), ())


words = st.text("ab \n\t", max_size=5)


@given(st.lists(st.builds(Row, words, words)), st.lists(st.builds(Row, words, words)))
def test_nothing_forgotten_is_retained_and_nothing_else_is_lost(forget: list[Row], retain: list[Row]) -> None:
    kept, warnings = without_overlap(forget, retain)
    assert {row.key for row in kept} == {row.key for row in retain} - {row.key for row in forget}
    assert bool(warnings) == (len(kept) < len(retain))


def test_a_corpus_needs_something_to_forget() -> None:
    with pytest.raises(UserError, match="forget set is empty"):
        Corpus((), ROWS, ())


def test_content_changes_with_every_part_of_its_own() -> None:
    """What is trained on and what is measured on each have a hash: a change of one leaves the other's."""
    corpus = Corpus(ROWS[:1], ROWS[1:], (EvaluationSet("forget", Role.FORGET, ROWS[:1]),))
    trained = [
        replace(corpus, forget=ROWS),
        replace(corpus, retain=()),
        replace(corpus, forget=ROWS[1:], retain=ROWS[:1]),
    ]
    measured = [
        replace(corpus, evaluation=(EvaluationSet("forget", Role.RETAIN, ROWS[:1]),)),
        replace(corpus, evaluation=(EvaluationSet("forget", Role.FORGET, ROWS),)),
    ]
    assert len({c.training_content for c in (corpus, *trained)}) == 4
    assert {c.evaluation_content for c in trained} == {corpus.evaluation_content}
    assert len({c.evaluation_content for c in (corpus, *measured)}) == 3
    assert {c.training_content for c in measured} == {corpus.training_content}
    assert replace(corpus, warnings=("a warning",)).training_content == corpus.training_content
