"""WMDP-Bio's robust and cloze forms, from folders laid out like the hub's."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from obliviate.data.rows import Role, Row
from obliviate.data.wmdp_forms import WmdpClozeData, WmdpRobustData
from obliviate.errors import UserError

QUESTION = {"question": " What is it? ", "choices": ["w", "x x", "y", "z"], "answer": 1}


def write(folder: Path, name: str, *rows: Any) -> None:
    path = folder / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_robust(tmp_path: Path) -> None:
    for category in WmdpRobustData.model_fields["categories"].default:
        write(tmp_path, f"{category}/robust", QUESTION)
    write(tmp_path, "dual_use_virology/robust", QUESTION, QUESTION)
    write(tmp_path, "dual_use_virology/shortcut", QUESTION)
    corpus = WmdpRobustData(source=str(tmp_path)).load()
    assert [(s.name, s.role, len(s.rows)) for s in corpus.evaluation] == [
        ("bioweapons_and_bioterrorism", Role.FORGET, 1),
        ("dual_use_virology", Role.FORGET, 2),
        ("enhanced_potential_pandemic_pathogens", Role.FORGET, 1),
        ("expanding_access_to_threat_vectors", Role.FORGET, 1),
        ("reverse_genetics_and_easy_editing", Role.FORGET, 1),
        ("viral_vector_research", Role.FORGET, 1),
    ]
    assert corpus.evaluation[0].rows[0] == Row(
        "The following are multiple choice questions (with answers) about biology.\n\n"
        "What is it?\nA. w\nB. x x\nC. y\nD. z\nAnswer:",
        "B",
        perturbed_answers=("A", "C", "D"),
    )
    assert corpus.only_measured
    virology = WmdpRobustData(source=str(tmp_path), categories=("dual_use_virology",), split="shortcut", eval_limit=1)
    assert [len(s.rows) for s in virology.load().evaluation] == [1]


@pytest.mark.parametrize("layout", ["jsonl", "the hub's parquet", "by subset"])
def test_cloze(tmp_path: Path, layout: str) -> None:
    row = {**QUESTION, "prompt": "lettered", "reasoning": "why"}
    if layout == "the hub's parquet":
        (tmp_path / "data").mkdir()
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "data" / "cloze_compatible-00000-of-00001.parquet")
    else:
        write(tmp_path, f"{'data' if layout == 'jsonl' else 'default'}/cloze_compatible", row)
    (cloze,) = WmdpClozeData(source=str(tmp_path)).load().evaluation
    assert (cloze.name, cloze.role) == ("bio_cloze", Role.FORGET)
    assert cloze.rows == (
        Row(
            "Complete the following biology questions with the correct answer.\n\nQuestion: What is it?\nAnswer:",
            "x x",
            perturbed_answers=("w", "y", "z"),
        ),
    )


def test_the_hub_is_asked_for_its_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(source: str, name: str, split: str) -> list[dict[str, Any]]:
        asked.append((source, name, split))
        return [QUESTION]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    WmdpRobustData(categories=("viral_vector_research",)).load()
    WmdpClozeData().load()
    assert asked == [
        ("EleutherAI/wmdp_bio_robust_mcqa", "viral_vector_research", "robust"),
        ("EleutherAI/wmdp_bio_cloze", "default", "cloze_compatible"),
    ]


def test_what_is_missing(tmp_path: Path) -> None:
    message = r"has no default/cloze_compatible or data/cloze_compatible\.json, \.jsonl or \.parquet; add it"
    with pytest.raises(UserError, match=message):
        WmdpClozeData(source=str(tmp_path)).load()
    write(tmp_path, "data/cloze_compatible", QUESTION | {"choices": ["w", "x", "y", ""]})
    with pytest.raises(UserError, match=r"line 1: 'choices' is \['w', 'x', 'y', ''\]; make it a text, or a list of"):
        WmdpClozeData(source=str(tmp_path)).load()
