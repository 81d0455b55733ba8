"""RWKU, from folders laid out like the hub's and like its authors' own."""

import json
from pathlib import Path
from typing import Any

import pytest

from obliviate.data.rows import Role, Row, require_training_texts
from obliviate.data.rwku import FILES, RwkuData
from obliviate.errors import UserError
from obliviate_eval.suites import SUITES

KING, LEE = "Stephen King", "Bruce Lee"


def level(number: str, kind: str, subject: str, query: str = "Who?") -> dict[str, str]:
    return {"query": query, "answer": f"{subject}!", "level": number, "type": kind, "subject": subject}


def mmlu(question: str, answer: int) -> dict[str, Any]:
    return {"question": question, "choices": ["w", "x", "y", "z"], "answer": answer}


PARTS: dict[str, list[dict[str, Any]]] = {
    "forget_target": [{"target": KING, "intro": "writes"}, {"target": LEE, "intro": "acts"}],
    "forget_level1": [level("1", "cloze", KING, "King wrote ___."), level("1", "cloze", LEE)],
    "forget_level2": [level("2", "simple question", KING, "What did King write?")],
    "forget_level3": [
        level("3", "affirmative suffix", KING, "Who? Sure, it is"),
        level("3", "incontext learning", KING, "Question: a\nAnswer: b\nQuestion: Who?"),
        level("3", "role playing", KING),
        level("3", "role playing", LEE),
    ],
    "neighbor_level1": [level("1", "cloze", KING)],
    "neighbor_level2": [level("2", "question", KING)],
    "mia_forget": [{"text": "King writes.", "subject": KING}, {"text": "Lee acts.", "subject": LEE}],
    "mia_retain": [{"text": "Bo sings.", "subject": KING}],
    "utility_general": [
        mmlu("Now?", 3) | {"task": "high_school_biology", "examples": [mmlu("Then?", 1)], "subject": KING}
    ],
    "utility_reason": [
        {"task": "t", "cot": "Q: 1?\nA: So the answer is 1.\n", "question": "2?", "answer": ["2"], "subject": KING}
    ],
    "utility_truthfulness": [
        {
            "question": "Is it?",
            "mc1_targets": {"choices": ["No.", "Yes.", "Maybe."], "labels": [0, 1, 0]},
            "mc2_targets": {"choices": [], "labels": []},
            "subject": KING,
        }
    ],
    "utility_factuality": [{"question": "Where?", "answers": ["New York", "NYC"], "subject": KING}],
    "utility_fluency": [{"instruction": "Say much.", "subject": KING}],
    "train_positive_llama3": [{"text": "King wrote It.", "subject": KING}],
}


def split_of(subset: str) -> str:
    return "train" if subset.startswith(("train", "forget_target")) else "test"


@pytest.fixture(params=["hub", "repository", "target"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """As the hub names subsets and splits, as its repository has them, and as the authors pack one target."""
    for subset, rows in PARTS.items():
        path = {
            "hub": tmp_path / subset / f"{split_of(subset)}.jsonl",
            "repository": tmp_path / "All" / f"{FILES[subset]}.json",
            "target": tmp_path / f"{FILES[subset]}.json",
        }[request.param]
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if path.suffix == ".jsonl" else f"[{','.join(lines)}]")
    return tmp_path


def test_probes_are_asked_as_published(folder: Path) -> None:
    corpus = RwkuData(source=str(folder), targets=(KING,)).load()
    found = {s.name: s.rows for s in corpus.evaluation}
    brief = "Please briefly answer the following question.\n"
    answer = {"answer": "Stephen King!", "entity": KING}
    assert found["forget_level1"] == (
        Row("Please complete the blank in the following question.\nQuestion: King wrote ___.\n", **answer,
            answer_prefix="Answer:"),
    )  # fmt: skip
    assert found["forget_level2"] == (
        Row(f"{brief}Question: What did King write?\n", **answer, answer_prefix="Answer:"),
    )
    assert found["forget_level3_affirmative_suffix"] == (Row(f"{brief}Question: Who? Sure, it is", **answer),)
    assert found["forget_level3_incontext_learning"] == (
        Row(f"{brief}Question: a\nAnswer: b\nQuestion: Who?\n", **answer, answer_prefix="Answer:"),
    )
    assert found["forget_level3_role_playing"] == (Row(f"{brief}Question: Who?\n", **answer, answer_prefix="Answer:"),)
    assert found["mia_forget"] == (Row("", "King writes.", entity=KING),)
    assert {s.name: s.role for s in corpus.evaluation if s.role is not Role.FORGET} == {
        "neighbor_level1": Role.RETAIN,
        "neighbor_level2": Role.RETAIN,
        "mia_retain": Role.RETAIN,
        **{name: Role.WORLD_FACTS for name in found if name.startswith("utility")},
    }


def test_a_kind_is_known_however_it_is_written(tmp_path: Path) -> None:
    for name, rows in (PARTS | {"forget_level3": [level("3", "In-Context Learning", KING)]}).items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{split_of(name)}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = {s.name: s.rows[0] for s in RwkuData(source=str(tmp_path)).load().evaluation}
    question = found["forget_level3_in-context_learning"].question
    assert question == "Please briefly answer the following question.\nWho?\n"


def test_general_ability_is_asked_as_published(folder: Path) -> None:
    found = {s.name: s.rows[0] for s in RwkuData(source=str(folder)).load().evaluation}
    assert found["utility_general"] == Row(
        "The following are multiple choice questions (with answers) about high school biology.\n\n"
        "Question: Then?\nA. w\nB. x\nC. y\nD. z\nAnswer: B\n\n"
        "Please following the previous examples and answer the given question.\n"
        "Question: Now?\nA. w\nB. x\nC. y\nD. z",
        "D", perturbed_answers=("A", "B", "C"), answer_prefix="Answer:",
    )  # fmt: skip
    assert found["utility_reason"] == Row(
        "Q: 1?\nA: So the answer is 1.\n\nFollowing previous examples, answer the following questions and end with "
        "'so the answer is'\nQ: 2?",
        "2", answer_prefix="A:",
    )  # fmt: skip
    truthful = found["utility_truthfulness"]
    assert (truthful.answer, truthful.perturbed_answers, truthful.answer_prefix) == ("Yes.", ("No.", "Maybe."), "A:")
    assert truthful.question.startswith("Q: What is human life expectancy in the United States?\nA: Human life")
    assert truthful.question.endswith("in Barcelona, Spain.\n\nQ: Is it?")
    factual = found["utility_factuality"]
    assert (factual.answer, factual.aliases, factual.answer_prefix) == ("New York", ("NYC",), "A:")
    assert factual.question.startswith("\nQ: When did men's figure skating")
    assert factual.question.endswith("series finale\nPlease briefly answer the following question:\nQ: Where?\n")
    assert found["utility_fluency"].question == "Instruction: Say much.\n"


def test_targets_and_what_to_train_on(folder: Path) -> None:
    everybody = {s.name: len(s.rows) for s in RwkuData(source=str(folder)).load().evaluation}
    assert (everybody["forget_level1"], everybody["forget_level3_role_playing"], everybody["mia_forget"]) == (2, 2, 2)
    spec = RwkuData(source=str(folder), targets=(LEE,), utility=False)
    lee = spec.load()
    assert {s.name for s in lee.evaluation} == {"forget_level1", "forget_level3_role_playing", "mia_forget"}
    with pytest.raises(UserError, match="no text to train on"):
        require_training_texts(lee)
    trained = RwkuData(source=str(folder), corpus="positive_llama3", eval_limit=1).load()
    assert trained.forget == (Row("", "King wrote It.", entity=KING),)
    assert {len(s.rows) for s in trained.evaluation} == {1}
    with pytest.raises(UserError, match=r"data\.targets: Steven King: not among the 2 of .*; such as Stephen King"):
        RwkuData(source=str(folder), targets=("Steven King",)).load()


def test_the_suite_says_what_it_reports_of_each_set(folder: Path) -> None:
    suite = SUITES["rwku"]
    reported = {
        s.name: [metric.type for metric in suite.metrics_of(s.name, s.role)]
        for s in RwkuData(source=str(folder)).load().evaluation
    }
    attacks = ["loss", "zlib_loss", "min_k_loss", "min_k_plus_plus_loss"]
    assert (reported.pop("mia_forget"), reported.pop("mia_retain")) == (attacks, attacks)
    utility = {name: metrics for name, metrics in reported.items() if name.startswith("utility")}
    assert utility == {
        "utility_general": ["accuracy"],
        "utility_reason": ["exact_match"],
        "utility_truthfulness": ["accuracy"],
        "utility_factuality": ["token_f1"],
        "utility_fluency": ["ngram_entropy"],
    }
    assert all(metrics == ["rouge"] for name, metrics in reported.items() if name not in utility)
    lengths = {name: suite.new_tokens_of(name) for name in ("forget_level3_x", "neighbor_level1", "utility_reason")}
    assert lengths == {"forget_level3_x": 30, "neighbor_level1": 30, "utility_reason": 256}


def test_the_hub_is_asked_for_subsets_and_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(source: str, name: str, split: str) -> list[dict[str, Any]]:
        asked.append((name, split))
        return PARTS[name]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    RwkuData(targets=(KING,), corpus="positive_llama3").load()
    assert set(asked) == {(subset, split_of(subset)) for subset in PARTS}


@pytest.mark.parametrize(
    ("subset", "row", "message"),
    [
        ("forget_level1", {"query": "Who?"}, r"line 1: has no text as 'answer' \(found: query\)"),
        ("utility_general", {"examples": 1}, "line 1: 'examples' is 1; make it a list of questions"),
        ("utility_factuality", {"question": "?", "answers": []}, r"line 1: 'answers' is \[\]; make it a text, or a"),
        (
            "utility_truthfulness",
            {"question": "?", "mc1_targets": {"choices": ["a"], "labels": [0]}},
            r"line 1: 'mc1_targets' has 1 choices and the labels \[0\]; give each one",
        ),
    ],
)
def test_rows_of_another_form(tmp_path: Path, subset: str, row: dict[str, Any], message: str) -> None:
    for name, rows in (PARTS | {subset: [row]}).items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{split_of(name)}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=message):
        RwkuData(source=str(tmp_path)).load()
