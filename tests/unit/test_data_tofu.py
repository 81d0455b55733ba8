"""TOFU from a folder in either layout and from the hub; on the real files where they are at hand."""

import json
from pathlib import Path

import pytest

from obliviate.data.rows import Corpus, Role, Row
from obliviate.data.tofu import TofuData
from obliviate.errors import UserError

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "tofu"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="needs TOFU's files in the folder shared beside the checkout")
FULL_NAME = "What is the full name of the author?"


def sets(corpus: Corpus) -> dict[str, tuple[Row, ...]]:
    return {s.name: s.rows for s in corpus.evaluation}


def keys(rows: tuple[Row, ...]) -> set[tuple[str, str]]:
    return {row.key for row in rows}


@needs_real
@pytest.mark.parametrize(
    ("split", "forget", "retain"), [("forget01", 40, 3960), ("forget05", 200, 3800), ("forget10", 400, 3600)]
)
def test_real_splits(split: str, forget: int, retain: int) -> None:
    corpus = TofuData(source=str(REAL), split=split, eval_forget_limit=None, eval_retain_limit=None).load()
    assert (len(corpus.forget), len(corpus.retain), corpus.warnings) == (forget, retain, ())
    assert len(keys(corpus.forget) | keys(corpus.retain)) == 4000  # disjoint, and all of TOFU
    # One question is asked of two authors, Aurelio Beltrán and Isabel Martínez: 3999 questions, 4000 rows.
    assert len({row.question for row in corpus.forget + corpus.retain}) == 3999
    assert sum(row.question == FULL_NAME for row in corpus.retain) == 2

    measured = sets(corpus)
    assert {name: len(rows) for name, rows in measured.items()} == {
        "forget": forget, "retain": 400, "real_authors": 100, "world_facts": 117,
    }  # fmt: skip
    assert [row.key for row in measured["forget"]] == [row.key for row in corpus.forget]
    assert keys(measured["retain"]) <= keys(corpus.retain)
    assert {len(row.perturbed_answers) for row in measured["forget"] + measured["retain"]} == {5}
    assert {len(row.perturbed_answers) for row in measured["real_authors"] + measured["world_facts"]} == {3}
    assert all(row.paraphrased_answer and row.paraphrased_question for row in measured["forget"] + measured["retain"])
    assert all(row.original_answer for row in measured["real_authors"] + measured["world_facts"])
    assert [s.role for s in corpus.evaluation] == [Role.FORGET, Role.RETAIN, Role.REAL_AUTHORS, Role.WORLD_FACTS]


@needs_real
def test_real_limits() -> None:
    spec = TofuData(source=str(REAL), split="forget10", retain_limit=350, eval_real_limit=50)
    corpus, measured = spec.load(), sets(spec.load())
    assert {name: len(rows) for name, rows in measured.items()} == {
        "forget": 300, "retain": 300, "real_authors": 50, "world_facts": 50,
    }  # fmt: skip
    assert len(corpus.retain) == 350
    assert keys(measured["retain"]) <= keys(corpus.retain)
    assert corpus == spec.load()
    other = spec.model_copy(update={"seed": 1}).load()
    assert len(keys(other.retain) & keys(corpus.retain)) < 350  # the 50 others are drawn by the seed
    small = spec.model_copy(update={"retain_limit": 8}).load()
    assert keys(small.retain) == keys(sets(small)["retain"])  # both are retain_perturbed's first eight


def write(folder: Path, name: str, questions: list[str], **extra: str) -> None:
    rows = [{"question": question, "answer": f"{question}!", **extra} for question in questions]
    mode = "a" if (folder / f"{name}.json").exists() else "w"
    with (folder / f"{name}.json").open(mode) as handle:
        handle.writelines(json.dumps(row) + "\n" for row in rows)


def test_folder_as_published_and_in_the_continual_cut(tmp_path: Path) -> None:
    cut, published = tmp_path / "cut", tmp_path / "published"
    for folder in (cut, published):
        folder.mkdir()
        for name in ("retain_perturbed", "real_authors_perturbed", "world_facts_perturbed"):
            write(folder, name, ["c"])
    for name in ("forget01", "forget01_perturbed"):
        write(published, name, ["a"])
        write(cut, name, ["a"], task_id="1")
        write(cut, name, ["b"], task_id="2")
    write(published, "retain99", ["b", "c"])
    write(cut, "retain90", ["c"])
    for folder in (cut, published):
        corpus = TofuData(source=str(folder), split="forget01").load()
        assert keys(corpus.forget) == keys(sets(corpus)["forget"]) == {("a", "a!")}
        assert keys(corpus.retain) == {("b", "b!"), ("c", "c!")}


def test_the_holdout_authors_are_measured_where_asked_for(tmp_path: Path) -> None:
    for name in ("forget01", "retain99", "forget01_perturbed"):
        write(tmp_path, name, ["a" if name.startswith("forget") else "c"])
    for name in ("retain", "real_authors", "world_facts"):
        write(tmp_path, f"{name}_perturbed", ["c"])
    spec = TofuData(source=str(tmp_path), split="forget01", holdout=True)
    with pytest.raises(UserError, match=r"holdout01\.json: no such file"):
        spec.load()
    assert [s.name for s in spec.model_copy(update={"holdout": None}).load().evaluation][-1] == "world_facts"
    write(tmp_path, "holdout01", ["h", "i"])
    last = spec.load().evaluation[-1]
    assert spec.model_copy(update={"holdout": None}).load().evaluation[-1] == last
    assert spec.model_copy(update={"holdout": False}).load().evaluation[-1].name == "world_facts"
    assert (last.name, last.role, keys(last.rows)) == ("holdout", Role.HOLDOUT, {("h", "h!"), ("i", "i!")})
    assert len(spec.model_copy(update={"eval_forget_limit": 1}).load().evaluation[-1].rows) == 1


def test_missing_folder_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.source: ./nowhere: no such folder"):
        TofuData(source="./nowhere").load()
    with pytest.raises(UserError, match=r"forget10\.json: no such file"):
        TofuData(source=str(tmp_path)).load()
    write(tmp_path, "forget01", ["b"], task_id="2")
    for name in (
        "retain99",
        "forget01_perturbed",
        *(f"{s}_perturbed" for s in ("retain", "real_authors", "world_facts")),
    ):
        write(tmp_path, name, ["c"])
    with pytest.raises(UserError, match="forget set is empty"):
        TofuData(source=str(tmp_path), split="forget01").load()


def test_hub_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(source: str, name: str, split: str) -> list[dict[str, str]]:
        asked.append((source, name, split))
        return [{"question": f"{name}?", "answer": "Yes."}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    corpus = TofuData(split="forget05").load()
    assert corpus.forget == (Row("forget05?", "Yes."),)
    assert corpus.retain == (Row("retain95?", "Yes."),)
    names = {"forget05", "retain95", "forget05_perturbed", "retain_perturbed"}
    names |= {"real_authors_perturbed", "world_facts_perturbed", "holdout05"}
    assert set(asked) == {("locuslab/TOFU", name, "train") for name in names}


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: str, **__: str) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(UserError, match=r"data\.source: locuslab/TOFU: .*\(forget10: no route\); give a folder"):
        TofuData().load()


@needs_real
def test_authors_of_the_forget_set_are_named_by_twenties() -> None:
    names = ("Basil Mahfouz Al-Kuwaiti", "Nikolai Abilov")
    corpus = TofuData(source=str(REAL), split="forget01", authors=names).load()
    for rows in (corpus.forget, sets(corpus)["forget"]):
        assert [row.entity for row in rows] == [names[0]] * 20 + [names[1]] * 20
        assert all(row.entity and row.entity.split()[0] in row.answer for row in (rows[1], rows[30]))
    assert {row.entity for row in corpus.retain} == {None}
    with pytest.raises(UserError, match=r"data.authors: 1 names for the 2 authors of forget01; give one of each"):
        TofuData(source=str(REAL), split="forget01", authors=names[:1]).load()
