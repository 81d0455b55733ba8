"""Real people: which rows, with which answers. The shape of the published files, made small."""

import json
from pathlib import Path

import pytest

from obliviate.data.real_world import RealWorldData
from obliviate.data.rows import Role
from obliviate.errors import UserError

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "real_world"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two people to forget, two neighbours, two other neighbours; two questions each."""
    groups = {"forget": "ab", "forget_perturbed": "ab", "neighbor": "cd", "neighbor_perturbed": "ef"}
    for name, people in groups.items():
        records = [
            {"name": p, "question": f"{p}{i}?", "answer": f"{p}{i}, as I know.", "golden_answer": f"{p}{i}."}
            for p in people
            for i in (1, 2)
        ]
        (tmp_path / f"{name}.json").write_text("\n".join(map(json.dumps, records)))
    return tmp_path


def test_what_is_kept_is_measured_on_people_that_are_not_trained_on(folder: Path) -> None:
    corpus = RealWorldData(source=str(folder)).load()
    assert [row.entity for row in corpus.forget] == ["a", "a", "b", "b"]
    assert {row.entity for row in corpus.retain} == {"c", "d"}
    assert [(each.name, each.role, len(each.rows)) for each in corpus.evaluation] == [
        ("forget", Role.FORGET, 4), ("neighbor", Role.RETAIN, 4),
    ]  # fmt: skip
    assert {row.entity for row in corpus.evaluation[1].rows} == {"e", "f"}


def test_answers_are_a_models_own_or_golden(folder: Path) -> None:
    first = [RealWorldData(source=str(folder), answers=answers).load().forget[0] for answers in ("original", "golden")]
    assert [row.answer for row in first] == ["a1, as I know.", "a1."]
    assert {row.golden_answer for row in first} == {"a1."}


def test_fewer_people_and_rows(folder: Path) -> None:
    corpus = RealWorldData(source=str(folder), people=1, eval_limit=1).load()
    assert [len(rows) for rows in (corpus.forget, corpus.retain, *(each.rows for each in corpus.evaluation))] == [
        2,
        2,
        1,
        1,
    ]


def test_a_row_without_the_golden_answer(folder: Path) -> None:
    (folder / "neighbor.json").write_text('{"name": "c", "question": "c1?", "answer": "c1."}')
    with pytest.raises(UserError, match=r"data\.answers: golden: row 1 of neighbor has no golden_answer"):
        RealWorldData(source=str(folder), answers="golden").load()


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"data\.source: ./nowhere: no such folder"):
        RealWorldData(source="./nowhere").load()


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real people's files in the folder shared beside the checkout")
def test_the_published_files() -> None:
    """Twenty people with twenty questions in each group, and no neighbour is both trained on and measured on."""
    corpus = RealWorldData(source=str(REAL), answers="golden").load()
    groups = [corpus.forget, corpus.retain, *(each.rows for each in corpus.evaluation)]
    assert [len(rows) for rows in groups] == [400] * 4
    people = [{row.entity for row in rows} for rows in groups]
    assert [len(each) for each in people] == [20] * 4
    assert people[0] == people[2]
    assert not people[1] & people[3]
