"""The user's own files, and the choice between kinds of data in a config."""

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from modules import loaded_by
from obliviate.data import DataSpec, FictitiousData, FilesData, Role, Row, TofuData
from obliviate.errors import UserError


def write(path: Path, questions: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(json.dumps({"question": q, "answer": f"{q}!"}) for q in questions), encoding="utf-8")
    return str(path)


def rows(questions: str) -> tuple[Row, ...]:
    return tuple(Row(q, f"{q}!") for q in questions)


def test_default_evaluation_is_what_was_trained_on(tmp_path: Path) -> None:
    spec = FilesData(forget=write(tmp_path / "f.json", "abc"), retain=write(tmp_path / "r.json", "cdefg"), eval_limit=2)
    corpus = spec.load()
    assert (corpus.forget, corpus.retain) == (rows("abc"), rows("defg"))
    assert corpus.warnings == ("1 of 5 retain rows are also in the forget set: removed from retain",)
    assert [(s.name, s.role, s.rows) for s in corpus.evaluation] == [
        ("forget", Role.FORGET, rows("ab")),
        ("retain", Role.RETAIN, rows("de")),
    ]


def test_named_evaluation_sets(tmp_path: Path) -> None:
    evaluation = {"neighbours": {"path": write(tmp_path / "n.json", "xyz"), "role": "retain"}}
    spec = FilesData.model_validate({"forget": write(tmp_path / "f.json", "a"), "evaluation": evaluation})
    assert [(s.name, s.role, s.rows) for s in spec.load().evaluation] == [("neighbours", Role.RETAIN, rows("xyz"))]


def test_a_holdout_file_is_measured_beside_the_others(tmp_path: Path) -> None:
    forget, holdout = write(tmp_path / "f.json", "a"), write(tmp_path / "h.json", "bc")
    evaluation = {"asked": {"path": forget, "role": "forget"}}
    for given in ({}, {"evaluation": evaluation}):
        corpus = FilesData.model_validate({"forget": forget, "holdout": holdout, **given}).load()
        assert corpus.retain == ()
        assert [(s.role, s.rows) for s in corpus.evaluation] == [
            (Role.FORGET, rows("a")), (Role.HOLDOUT, rows("bc")),
        ]  # fmt: skip
    with pytest.raises(UserError, match=r"data\.holdout: .*gone\.json: no such file"):
        FilesData(forget=forget, holdout=str(tmp_path / "gone.json")).load()


def test_without_retain(tmp_path: Path) -> None:
    corpus = FilesData(forget=write(tmp_path / "f.json", "a")).load()
    assert corpus.retain == ()
    assert [s.name for s in corpus.evaluation] == ["forget"]


def test_missing_file(tmp_path: Path) -> None:
    forget = write(tmp_path / "f.json", "a")
    with pytest.raises(UserError, match=r"gone\.json: no such file"):
        FilesData(forget=forget, retain=str(tmp_path / "gone.json")).load()


def test_type_chooses_the_kind() -> None:
    adapter: TypeAdapter[TofuData | FictitiousData | FilesData] = TypeAdapter(DataSpec)
    assert isinstance(adapter.validate_python({"type": "tofu"}), TofuData)
    assert isinstance(adapter.validate_python({"type": "fictitious"}), FictitiousData)
    assert adapter.validate_python({"type": "files", "forget": "f.json"}) == FilesData(forget="f.json")
    with pytest.raises(
        ValidationError, match="'tofu', 'fictitious', 'files', 'real_world', 'continual', 'muse', 'wmdp'"
    ):
        adapter.validate_python({"type": "mews"})
    with pytest.raises(ValidationError, match="Extra inputs"):
        adapter.validate_python({"type": "tofu", "retain_limits": 3})


def test_the_specs_are_light() -> None:
    """A config is checked before anything heavy loads."""
    assert loaded_by("obliviate.data", ("torch", "transformers", "datasets", "pyarrow")) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set as the hub has them: the subsets `easy` and `hard`, with the splits `train` and `test`."""
    configs = []
    for subset in ("easy", "hard"):
        configs.append(f"- config_name: {subset}\n  data_files:\n")
        for split in ("train", "test"):
            write(tmp_path / "set" / f"{subset}-{split}.jsonl", f"{subset[0]}{split[:2]}")
            configs.append(f"  - split: {split}\n    path: {subset}-{split}.jsonl\n")
    (tmp_path / "set" / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n", encoding="utf-8")
    return tmp_path / "set"


def test_subsets_and_splits_of_a_data_set(folder: Path) -> None:
    easy = {"path": str(folder), "subset": "easy"}
    values = {
        "forget": easy,
        "retain": {"path": str(folder), "subset": "hard", "split": "test"},
        "evaluation": {"asked": {**easy, "split": "test", "role": "forget"}},
    }
    corpus = FilesData.model_validate(values).load()
    assert (corpus.forget, corpus.retain) == (rows("etr"), rows("h"))  # t and e are in the forget set
    assert [each.rows for each in corpus.evaluation] == [rows("ete")]
    assert "1 of 3 rows of the set asked repeat others, but for white space" in corpus.warnings[1]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"subset": "medium"}, r"^data\.forget: .*/set: has no subset 'medium'; name one of easy, hard$"),
        ({"split": "train"}, r"^data\.forget: .*/set: has several subsets; name one of easy, hard$"),
        ({"subset": "easy", "split": "dev"}, r"^data\.forget: .*/set: has no split 'dev'; name one of train, test$"),
        ({"path": "./nothing", "subset": "easy"}, r"^data\.forget: \./nothing: no such folder; give a folder that"),
    ],
)
def test_a_part_that_a_data_set_does_not_have(folder: Path, part: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FilesData.model_validate({"forget": {"path": str(folder), **part}}).load()


def test_rows_of_a_data_set_are_named_where_they_are_wrong(folder: Path) -> None:
    (folder / "easy-train.jsonl").write_text('{"question": "Q", "answer": "A"}\n{"question": "Q", "answer": " "}\n')
    with pytest.raises(UserError, match=r"^data\.forget: .*/set easy/train, row 2: 'answer' is empty; give the text"):
        FilesData.model_validate({"forget": {"path": str(folder), "subset": "easy"}}).load()


def test_repeated_rows_are_told_and_stay(tmp_path: Path) -> None:
    lines = [
        {"question": "Who?", "answer": "Ada."},
        {"question": " WHO?", "answer": "ada."},
        {"question": "X", "answer": "Y"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    corpus = FilesData(forget=str(path)).load()
    assert len(corpus.forget) == 3
    assert corpus.warnings == (
        "1 of 3 rows of forget repeat others, but for white space, case and how letters are composed: each counts as "
        "often as it is there",
    )


def test_a_document_is_cut_into_pieces(tmp_path: Path) -> None:
    """Nothing is lost, each piece has so many words, and questions are left alone."""
    document = "\n".join(f"Sentence {number} of a long book, as it stands." for number in range(1000))
    rows = [{"text": document, "entity": "book"}, {"text": "短い" * 30}, {"question": "Who?", "answer": "word " * 40}]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    corpus = FilesData(forget=str(path), chunk_words=20).load()
    pieces = [row for row in corpus.forget if row.entity == "book"]
    assert " ".join(" ".join(row.answer for row in pieces).split()) == " ".join(document.split())
    assert {len(row.answer.split()) for row in pieces} == {20}
    assert [len(row.answer) for row in corpus.forget[len(pieces) : -1]] == [20, 20, 20]
    assert corpus.forget[-1].question == "Who?"
    assert len(FilesData(forget=str(path)).load().forget) == 3
    assert "chunk_words" not in FilesData(forget=str(path)).model_dump()  # runs of before keep their address
