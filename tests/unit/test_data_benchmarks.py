"""MUSE and WMDP, from folders laid out like the hub's."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from obliviate.config import UnlearnRun, load
from obliviate.data.muse import MuseData
from obliviate.data.rows import Role, Row, require_training_texts
from obliviate.data.wmdp import WmdpData
from obliviate.errors import UserError
from obliviate_eval.metrics.knowledge_memorization import STOPS
from obliviate_eval.suites import SUITES


def write(folder: Path, name: str, *rows: Any) -> None:
    path = folder / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def muse(tmp_path: Path) -> Path:
    def qa(letter: str) -> dict[str, str]:
        return {"question": f"Who is {letter}?", "answer": letter}

    write(tmp_path, "raw/forget", {"text": " ".join(f"w{i}" for i in range(50))})
    write(tmp_path, "raw/retain1", {"text": "kept text"}, {"text": "more text"})
    write(tmp_path, "knowmem/forget_qa", qa("F"))
    write(tmp_path, "knowmem/forget_qa_icl", qa("X"), qa("Y"))
    write(tmp_path, "knowmem/retain_qa", qa("R"))
    write(tmp_path, "knowmem/retain_qa_icl", qa("Z"))
    write(tmp_path, "verbmem/forget", {"prompt": "Once upon", "gt": "a time"})
    (tmp_path / "privleak").mkdir()
    (tmp_path / "privleak" / "forget.json").write_text(json.dumps(["seen", "seen too"]))  # a list of plain texts
    pq.write_table(pa.table({"text": ["unseen"]}), tmp_path / "privleak" / "holdout-00000-of-00001.parquet")
    return tmp_path


def test_muse(muse: Path) -> None:
    corpus = MuseData(source=str(muse), chunk_words=20).load()
    assert [len(row.answer.split()) for row in corpus.forget] == [20, 20, 10]  # no word is lost
    assert " ".join(row.answer for row in corpus.forget) == " ".join(f"w{i}" for i in range(50))
    assert [row.answer for row in corpus.retain] == ["kept text", "more text"]
    assert {(s.name, s.role): s.rows for s in corpus.evaluation} == {
        ("verbatim", Role.FORGET): (Row("Once upon", "a time"),),
        ("knowledge_forget", Role.FORGET): (
            Row(
                "Question: Who is X?\nAnswer: X\n\nQuestion: Who is Y?\nAnswer: Y\n\nQuestion: Who is F?\nAnswer: ",
                "F",
            ),
        ),
        ("knowledge_retain", Role.RETAIN): (
            Row("Question: Who is Z?\nAnswer: Z\n\nQuestion: Who is R?\nAnswer: ", "R"),
        ),
        ("forget", Role.FORGET): (Row("", "seen"), Row("", "seen too")),
        ("holdout", Role.HOLDOUT): (Row("", "unseen"),),
    }
    assert [len(s.rows) for s in MuseData(source=str(muse), eval_limit=1).load().evaluation] == [1] * 5
    assert set(SUITES["muse"].sets) == {s.name for s in corpus.evaluation}  # the suite says what it reports of each
    assert any(corpus.evaluation[1].rows[0].question.partition(stop)[1] for stop in STOPS)


def test_a_missing_split_and_a_row_of_something_else(muse: Path) -> None:
    write(muse, "verbmem/forget", {"prompt": "Once upon"})
    with pytest.raises(UserError, match=r"forget\.jsonl, line 1: has no text as 'gt' \(found: prompt\); give"):
        MuseData(source=str(muse)).load()
    (muse / "verbmem" / "forget.jsonl").unlink()
    with pytest.raises(UserError, match=r"has no verbmem/forget\.json, \.jsonl or \.parquet; add it"):
        MuseData(source=str(muse)).load()
    with pytest.raises(UserError, match=r"data\.source: ./nowhere: no such folder; give a folder with raw/forget"):
        MuseData(source="./nowhere").load()


def test_the_hub_is_asked_for_subsets_and_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(source: str, name: str, split: str) -> list[dict[str, Any]]:
        asked.append((source, name, split))
        return [{"text": f"{name} {split}", "question": "q", "answer": "a", "prompt": "p", "gt": "g"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    MuseData(source="muse-bench/MUSE-Books").load()
    assert {(name, split) for _, name, split in asked} == {
        ("raw", "forget"), ("raw", "retain1"), ("verbmem", "forget"), ("privleak", "forget"), ("privleak", "holdout"),
        *(("knowmem", f"{part}_qa{kind}") for part in ("forget", "retain") for kind in ("", "_icl")),
    }  # fmt: skip
    assert {source for source, _, _ in asked} == {"muse-bench/MUSE-Books"}


QUESTION = {"question": "What is it?", "choices": ["w", "x", "y", "z"], "answer": 2}


def test_wmdp(tmp_path: Path) -> None:
    write(tmp_path, "wmdp-bio/test", QUESTION, QUESTION)
    write(tmp_path, "wmdp-cyber/test", QUESTION)
    corpus = WmdpData(source=str(tmp_path)).load()
    assert [(s.name, s.role, len(s.rows)) for s in corpus.evaluation] == [
        ("bio", Role.FORGET, 2), ("cyber", Role.FORGET, 1),
    ]  # fmt: skip
    assert corpus.evaluation[1].rows[0] == Row(
        "The following are multiple choice questions (with answers) about cybersecurity.\n\n"
        "What is it?\nA. w\nB. x\nC. y\nD. z\nAnswer:",
        "C",
        perturbed_answers=("A", "B", "D"),
    )
    assert [len(s.rows) for s in WmdpData(source=str(tmp_path), eval_limit=1).load().evaluation] == [1, 1]


def test_wmdp_without_its_texts_is_only_measured(tmp_path: Path) -> None:
    write(tmp_path, "wmdp-bio/test", QUESTION)
    spec = WmdpData(source=str(tmp_path), subjects=("bio",))
    with pytest.raises(UserError, match=r"data\.forget: this data has questions to measure on and no text to train on"):
        require_training_texts(spec.load())
    write(tmp_path, "corpus", {"text": "hazard"})
    whole = spec.model_copy(update={"forget": str(tmp_path / "corpus.jsonl")}).load()
    require_training_texts(whole)
    assert whole.forget == (Row("", "hazard"),)
    with pytest.raises(UserError, match=r"data\.retain: .*gone\.jsonl: no such file"):
        spec.model_copy(update={"retain": str(tmp_path / "gone.jsonl")}).load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": ["w", "x"]}, r"line 1: 'choices' is \['w', 'x'\]; make it a list of 4 options"),
        ({"answer": 4}, r"line 1: 'answer' is 4; make it the number of the right option, from 0 to 3"),
        ({"answer": "C"}, r"'answer' is 'C'"),
        ({"question": ""}, r"has no text as 'question'"),
    ],
)
def test_questions_of_another_form(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path, "wmdp-bio/test", QUESTION | change)
    with pytest.raises(UserError, match=message):
        WmdpData(source=str(tmp_path), subjects=("bio",)).load()


def test_a_config_names_the_kind(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: {source: m}\nmethod: {type: ga}\ndata: {type: wmdp, forget: f.jsonl}\n")
    assert load(UnlearnRun, tmp_path / "run.yaml").data == WmdpData(forget="f.jsonl")
