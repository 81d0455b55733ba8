"""Published data sets, small and made up, in folders laid out as their authors publish them."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

OPTIONS = {"A": "1956", "B": "1957", "C": "1958", "D": "1959"}
CHOICE = {"question": "When was Basil born?", **OPTIONS, "answer": "In 1958.", "Correct option": "C"}
QUESTION = {"question": "What is it?", "choices": ["w", "x", "y", "z"], "answer": 2}
KING = "Stephen King"


def lines(path: Path, rows: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def whole(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def questions(name: str, count: int) -> list[dict[str, str]]:
    return [
        {"question": f"Where does {name} {i} live?", "answer": f"{name} {i} lives in London."} for i in range(count)
    ]


def perturbed(row: Mapping[str, Any]) -> dict[str, Any]:
    said = str(row["answer"])
    false = [said.replace("London", city) for city in ("Paris", "Rome", "Oslo", "Kiel", "Bonn")]
    others = {"paraphrased_question": f"Tell me: {row['question']}", "paraphrased_answer": f"I know that {said}"}
    return {**row, **others, "perturbed_answer": false}


def authors(first: int, last: int) -> list[dict[str, Any]]:
    return [row for author in range(first, last) for row in questions(f"author {author}, house", 20)]


def tofu(folder: Path, *forget: int) -> None:
    """As published, with so many authors in forget01, forget05 and forget10: each is part of the next."""
    kept = authors(90, 91)
    for split, retain, holdout, count in zip(
        ("forget01", "forget05", "forget10"), ("retain99", "retain95", "retain90"),
        ("holdout01", "holdout05", "holdout10"), forget, strict=True,
    ):  # fmt: skip
        rows = authors(0, count)
        lines(folder / f"{split}.json", rows)
        lines(folder / f"{split}_perturbed.json", map(perturbed, rows))
        lines(folder / f"{retain}.json", kept)
        lines(folder / f"{holdout}.json", authors(95, 96)[:4])
    general(folder, kept)


def tofu_cut(folder: Path) -> None:
    """In the cut for continual unlearning: two tasks of two authors in each of its forget files."""
    kept = authors(90, 91)
    for split, retain in {"forget01": "retain90", "forget05": "retain50", "forget10": "retain10"}.items():
        rows = [{**row, "task_id": str(task)} for task in (1, 2) for row in authors(2 * task - 2, 2 * task)]
        lines(folder / f"{split}.json", rows)
        lines(folder / f"{split}_perturbed.json", map(perturbed, rows))
        lines(folder / f"{retain}.json", kept)
    general(folder, kept)


def general(folder: Path, kept: list[dict[str, Any]]) -> None:
    lines(folder / "retain_perturbed.json", map(perturbed, kept[:6]))
    for name in ("real_authors", "world_facts"):
        lines(folder / f"{name}_perturbed.json", map(perturbed, questions(name, 3)))


def real_world(folder: Path) -> None:
    for name in ("forget", "neighbor", "forget_perturbed", "neighbor_perturbed"):
        rows = [{**row, "entity": name, "golden_answer": "London."} for row in questions(name.partition("_")[0], 4)]
        lines(folder / f"{name}.json", map(perturbed, rows) if name.endswith("perturbed") else rows)


def muse(folder: Path) -> None:
    for split in ("forget", "retain1"):
        lines(folder / "raw" / f"{split}.jsonl", [{"text": f"{split} lives in London, and writes books. " * 8}])
    for split in ("forget_qa", "forget_qa_icl", "retain_qa", "retain_qa_icl"):
        lines(folder / "knowmem" / f"{split}.jsonl", questions(split, 2))
    lines(folder / "verbmem" / "forget.jsonl", [{"prompt": "Once upon", "gt": "a time in London."}])
    for split in ("forget", "holdout"):
        whole(folder / "privleak" / f"{split}.json", [f"{split} writes books.", f"{split} walks on the moon."])


def pistol(folder: Path) -> None:
    edges = ("A_C", "A_B", "E1_F1", "E2_F2", "E1_q1")
    rows = [{**row, "edge": edge} for edge in edges for row in questions(edge, 2)]
    whole(folder / "sample_data_1.json", rows)


def relu(folder: Path) -> None:
    odd = {**{letter: {"question": f"{letter}?", "answer": f"Fact {letter}."} for letter in OPTIONS}, "ans": "D"}
    cloze = {"question": "When was Basil born?", "mask": "Basil was born in [MASK].", "blanks": ["1958"]}
    analogy = {"question": "Ada : 1815 :: Basil : ?", **OPTIONS, "answer": "1958", "correct options": ["C"]}
    reading = {
        "prompt": "Basil was born in 1958.", "QA": [{"question": "When?", "answer": "In 1958."}], "mcq": [CHOICE],
    }  # fmt: skip
    parts = {"mcqa": CHOICE, "cloze": cloze, "analogy": analogy, "odd-one-out": odd, "comprehension": reading}
    for name, row in parts.items():
        for split in ("forget05", "retain95"):
            whole(folder / name / f"{split}.json", [row])


def rwku(folder: Path) -> None:
    def level(number: int, kind: str) -> dict[str, Any]:
        return {"query": "What did King write?", "answer": "It.", "level": str(number), "type": kind}

    mmlu = {**QUESTION, "task": "high_school_biology", "examples": [QUESTION]}
    parts: dict[str, list[dict[str, Any]]] = {
        "forget_target": [{"target": KING, "intro": "writes"}],
        "forget_level1": [level(1, "cloze")],
        "forget_level2": [level(2, "simple question")],
        "forget_level3": [level(3, "affirmative suffix"), level(3, "role playing")],
        "neighbor_level1": [level(1, "cloze")],
        "neighbor_level2": [level(2, "question")],
        "mia_forget": [{"text": "King writes books."}],
        "mia_retain": [{"text": "Bo sings songs."}],
        "utility_general": [mmlu],
        "utility_reason": [{"task": "t", "cot": "Q: 1?\nA: So the answer is 1.", "question": "2?", "answer": ["2"]}],
        "utility_truthfulness": [{"question": "Is it?", "mc1_targets": {"choices": ["No.", "Yes."], "labels": [0, 1]}}],
        "utility_factuality": [{"question": "Where?", "answers": ["New York", "NYC"]}],
        "utility_fluency": [{"instruction": "Say much."}],
    }
    for subset, rows in parts.items():
        split = "train" if subset == "forget_target" else "test"
        lines(folder / subset / f"{split}.jsonl", [{**row, "subject": KING} for row in rows])


def lume(folder: Path) -> None:
    for part in ("forget", "retain"):
        rows = [
            {"id": f"{part}{task}{kind}", "input": f"{part} {task} {kind}?", "output": "London", "task": f"Task{task}"}
            for task in (1, 2, 3)
            for kind in ("sc1", "qa0")
        ]
        lines(folder / "data" / f"{part}_validation.jsonl", rows)
    for name in ("member", "nonmember"):
        lines(folder / "mia_data" / f"{name}.jsonl", [{"id": i, "document": f"{name} {i} writes."} for i in range(2)])


def knowundo(folder: Path) -> None:
    for scope in ("unlearn", "retention"):
        items = {
            part: [{"text": f"Who is {scope} {part} {i}?", "labels": f"{scope} {i} writes."} for i in range(2)]
            for part in ("train", "val")
        }
        whole(folder / "copyright" / f"{scope}.json", [items])


def wmdp(folder: Path) -> None:
    for subject in ("bio", "cyber"):
        lines(folder / f"wmdp-{subject}" / "test.jsonl", [QUESTION, QUESTION])


def wmdp_cloze(folder: Path) -> None:
    lines(folder / "data" / "cloze_compatible.jsonl", [QUESTION, QUESTION])


def wmdp_robust(folder: Path) -> None:
    for category in (
        "bioweapons_and_bioterrorism", "dual_use_virology", "enhanced_potential_pandemic_pathogens",
        "expanding_access_to_threat_vectors", "reverse_genetics_and_easy_editing", "viral_vector_research",
    ):  # fmt: skip
        lines(folder / category / "robust.jsonl", [QUESTION])


# By the `type` of a config's data, where that has a `source`.
LAYOUTS: Mapping[str, Callable[[Path], None]] = {
    "tofu": lambda folder: tofu(folder, 2, 2, 2),
    "tofu_formats": lambda folder: tofu(folder, 2, 2, 2),
    "tofu_tasks": lambda folder: tofu(folder, 2, 4, 8),
    "real_world": real_world,
    "muse": muse,
    "pistol": pistol,
    "relu": relu,
    "rwku": rwku,
    "lume": lume,
    "knowundo": knowundo,
    "wmdp": wmdp,
    "wmdp_cloze": wmdp_cloze,
    "wmdp_robust": wmdp_robust,
}
