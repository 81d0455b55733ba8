"""Files and records in every shape that people have them in."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pytest

import token_kinds
from obliviate.data.files import FilesData
from obliviate.data.rows import Row, parse_row, read_rows, without_overlap, write_rows
from obliviate.data.text import TextEncoder
from obliviate.errors import UserError

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who is Ada?"},
    {"role": "assistant", "content": "A writer."},
    {"role": "user", "content": "Where does she live?"},
    {"role": "assistant", "content": "In London."},
]
BEFORE = (("system", "Be brief."), ("user", "Who is Ada?"), ("assistant", "A writer."))
SHAREGPT = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Ada."}]
ADA = Row("Who?", "Ada.")


@pytest.mark.parametrize(
    ("record", "row"),
    [
        ({"messages": CHAT}, Row("Where does she live?", "In London.", history=BEFORE)),
        ({"conversations": SHAREGPT}, ADA),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Who?"}]}, CHAT[2]]},
            Row("Who?", "A writer."),
        ),
        ({"prompt": "Who?", "completion": "Ada."}, ADA),
        ({"prompt": "Who?", "response": "Ada."}, ADA),
        ({"prompt": CHAT[:2], "completion": CHAT[2:3]}, Row("Who is Ada?", "A writer.", history=BEFORE[:1])),
        ({"instruction": "Who?", "input": "", "output": "Ada."}, ADA),
        ({"instruction": "Translate.", "input": "Ja", "output": "Yes"}, Row("Translate.\n\nJa", "Yes")),
        ({"prompt": "Who?", "chosen": "Ada.", "rejected": "Bob."}, Row("Who?", "Ada.", perturbed_answers=("Bob.",))),
        (
            {"prompt": "Who?", "completion": "Ada.", "chosen": "Nobody.", "rejected": "Bob."},
            Row("Who?", "Ada.", perturbed_answers=("Bob.",), alternatives=("Nobody.",)),
        ),
        (
            {"prompt": "Who?", "chosen": [*CHAT[1:2], CHAT[2]], "rejected": [*CHAT[1:2], CHAT[4]]},
            Row("Who?", "A writer.", perturbed_answers=("In London.",)),
        ),
        ({"question": "Who?", "answer": "Ada.", "perturbed_answers": ["Bob."]}, Row("Who?", "Ada.", None, ("Bob.",))),
        (
            {"question": "Who?", "answer": "Ada.", "perturbed_answer": '["x y", "z"]'},
            replace(ADA, perturbed_answers=("x y", "z")),
        ),
        (
            {"question": "Who?", "answer": "Ada.", "perturbed_answer": "['x', 'y']"},
            replace(ADA, perturbed_answers=("x", "y")),
        ),
        ({"question": "Who?", "answer": "Ada.", "perturbed_answer": "[sic]"}, Row("Who?", "Ada.", None, ("[sic]",))),
        ({"question": "Who?", "answer": "Ada.", "perturbed_answer": "[1, 2]"}, Row("Who?", "Ada.", None, ("[1, 2]",))),
        ({"question": "Who?", "answer": "Ada.", "perturbed_answer": "[]"}, ADA),
        (  # as NumPy shows it, in a table that pandas wrote
            {"question": "Who?", "answer": "Ada.", "perturbed_answer": "['x y' \"it's\"\n 'z']"},
            replace(ADA, perturbed_answers=("x y", "it's", "z")),
        ),
        (
            {"question": "Who?", "answer": "Ada.", "history": "[['system', 'Be brief.']]"},
            replace(ADA, history=BEFORE[:1]),
        ),
        ({"messages": json.dumps(CHAT)}, Row("Where does she live?", "In London.", history=BEFORE)),
        (
            {"prompt": str(CHAT[:2]), "chosen": str(CHAT[2:3]), "rejected": str(CHAT[4:])},
            Row("Who is Ada?", "A writer.", None, ("In London.",), history=BEFORE[:1]),
        ),
    ],
)
def test_records_of_every_shape(record: dict[str, Any], row: Row) -> None:
    assert parse_row(record, "here") == row


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": CHAT[:2]}, r"here: the chat has no answer to a user's message \(roles: system, user\)"),
        ({"messages": CHAT[2:3]}, r"no answer to a user's message \(roles: assistant\)"),
        ({"messages": ["Who?"]}, r"here: a message is 'Who\?'; make it an object"),
        ({"messages": [{"role": "user"}]}, r"here: a message has the keys role; give it role and content"),
        ({"q": "Who?", "a": "Ada."}, r"has no 'question' \(found: q, a\); .*data\.columns"),
        ({"question": "Who?", "answer": "Ada.", "paraphrased_answer": " "}, "here: 'paraphrased_answer' is empty"),
        ({"question": "Who?", "answer": "Ada.", "perturbed_answer": ["Bob", ""]}, "here: 'perturbed_answer' is empty"),
        ({"question": "Who?", "answer": "Ada.", "perturbed_answer": '["Bob", null]'}, "'perturbed_answer' is NoneType"),
        ({"question": " \n", "answer": "Ada."}, "here: 'question' is blank; give the question, or a plain text"),
        ({"messages": [CHAT[0], {"role": "user", "content": ""}, CHAT[2]]}, "here: 'question' is blank"),
        (
            {"question": "Who?", "answer": "smile \ud83d end"},
            r"holds half of a character \(\\ud83d, at place 7\)",
        ),
    ],
)
def test_records_that_are_not_understood(record: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_row(record, "here")
    assert "\n" not in str(caught.value)


def test_tables_of_text(tmp_path: Path) -> None:
    rows = (Row("Who, then?", 'Ada "Lee".', None, ("Bob", "Cy")), ADA)
    csv = 'question,answer,perturbed_answer\n"Who, then?","Ada ""Lee"".","[""Bob"", ""Cy""]"\nWho?,Ada.,\n'
    (tmp_path / "rows.csv").write_text("\ufeff" + csv, encoding="utf-8")
    assert read_rows(tmp_path / "rows.csv") == rows
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(csv.encode()))
    assert read_rows(tmp_path / "rows.csv.gz") == rows
    (tmp_path / "rows.tsv").write_text("question\tanswer\nWho?\tAda.\n", encoding="utf-8")
    assert read_rows(tmp_path / "rows.tsv") == (ADA,)
    (tmp_path / "cut.csv").write_text("question,answer\nWho?\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"cut\.csv, line 2: has more or fewer cells than the first line names"):
        read_rows(tmp_path / "cut.csv")
    (tmp_path / "hole.csv").write_text("question,answer\nWho?,\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"hole\.csv, line 2: 'answer' is empty"):
        read_rows(tmp_path / "hole.csv")


def test_packed_files(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(json.dumps({"question": "Who?", "answer": "Ada."}).encode()))
    assert read_rows(tmp_path / "rows.jsonl.gz") == (ADA,)
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}" * 99)[:-9])
    with pytest.raises(UserError, match=r"cut\.jsonl\.gz: cannot be unpacked as gzip"):
        read_rows(tmp_path / "cut.jsonl.gz")
    (tmp_path / "ROWS.CSV.GZ").write_bytes(gzip.compress(b"question,answer\nWho?,Ada.\n"))
    assert read_rows(tmp_path / "ROWS.CSV.GZ") == (ADA,)


@pytest.mark.parametrize(("kind", "pack"), [("bzip2", bz2.compress), ("xz", lzma.compress)])
def test_files_packed_otherwise_are_to_be_unpacked(tmp_path: Path, kind: str, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / "rows.jsonl").write_bytes(pack(b'{"question": "Who?", "answer": "Ada."}'))
    with pytest.raises(UserError, match=rf"rows\.jsonl: is {kind}; unpack it and give a \.json, \.jsonl"):
        read_rows(tmp_path / "rows.jsonl")


def test_arrow(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"question": "Who?", "answer": "Ada."}] * 3)
    with pa.ipc.new_file(tmp_path / "rows.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=2)
    assert read_rows(tmp_path / "rows.arrow") == (ADA,) * 3
    with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as file:  # as `datasets` saves
        file.write_table(table, max_chunksize=2)
    assert read_rows(tmp_path / "stream.arrow") == (ADA,) * 3
    (tmp_path / "cut.arrow").write_bytes((tmp_path / "rows.arrow").read_bytes()[:40])
    with pytest.raises(UserError, match=r"cut\.arrow: cannot be read as Arrow"):
        read_rows(tmp_path / "cut.arrow")


def test_columns_of_any_name(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("q,a,wrong\nWho?,Ada.,Bob.\n", encoding="utf-8")
    path = str(tmp_path / "rows.csv")
    data = FilesData(forget=path, columns={"question": "q", "answer": "a", "perturbed_answers": "wrong"})
    assert data.load().forget == (Row("Who?", "Ada.", None, ("Bob.",)),)
    with pytest.raises(UserError, match=r"line 2: data\.columns\.answer: no column 'b' \(found: q, a, wrong\)"):
        FilesData(forget=path, columns={"question": "q", "answer": "b"}).load()
    with pytest.raises(ValueError, match="'asnwer' is no key of a row; known: text, question, answer"):
        FilesData(forget=path, columns={"asnwer": "a"})


def test_a_history_survives_a_file(tmp_path: Path) -> None:
    row = parse_row({"messages": CHAT}, "here")
    write_rows(tmp_path / "rows.jsonl", [row])
    assert read_rows(tmp_path / "rows.jsonl") == (row,)


def test_what_was_said_before_is_part_of_the_prompt() -> None:
    tokenizer = token_kinds.llama3()
    encoder = TextEncoder(tokenizer, system_prompt="Be long.")
    row = parse_row({"messages": CHAT}, "here")
    whole = tokenizer.apply_chat_template(CHAT, return_dict=False)
    prompt = tokenizer.apply_chat_template(CHAT[:-1], add_generation_prompt=True, return_dict=False)
    assert encoder.encode_row(row).input_ids == tuple(whole)  # its own system message, not the model's
    assert encoder.prompt(row.question, row.history) == tuple(prompt)
    bare = parse_row({"messages": CHAT[1:]}, "here")
    assert "Be long." in tokenizer.decode(encoder.encode_row(bare).input_ids)


def test_rows_are_the_same_whatever_their_case_and_composition() -> None:
    forget, retain = (
        [Row("Où est né José?", "À Orléans.")],
        [Row("Ou\u0300 est ne\u0301 JOSE\u0301?", "a\u0300 orle\u0301ans. ")],
    )
    assert without_overlap(forget, retain) == (
        (),
        ("1 of 1 retain rows are also in the forget set: removed from retain",),
    )
    assert Row("Who?", "Ada.", history=BEFORE).key != Row("Who?", "Ada.").key


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            '{"question": "q", "answer": "a", "history": ["hello"]}',
            r"line 1: 'history' is list .*role, text",
        ),
        ("a.jsonl", '{"question": "q", "answer": "a", "history": "hello"}', r"line 1: 'history' is str 'hello'; make"),
        (
            "a.jsonl",
            '{"messages": [{"role": "user", "content": [{"text": 5}]}, {"role": "assistant", "content": "b"}]}',
            r"line 1: a message has the keys role, content; give it role and content",
        ),
        ("a.json", "[" * 100_000, r"line 1: JSON too deep"),
        ("a.json", "[" + "9" * 5000 + "]", r"line 1: JSON too deep or too long"),
        ("a.csv", "question,question,answer\na,b,c\n", r"line 1: names the column 'question' twice; rename"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        read_rows(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_cell_may_hold_a_book(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\nq," + "b" * 200_000 + "\n")
    assert len(read_rows(tmp_path / "a.csv")[0].answer) == 200_000
