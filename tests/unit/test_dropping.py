"""What is said of rows that early drop left out: how many, when, and which."""

import json
from pathlib import Path

from obliviate.data.rows import Row
from obliviate_recipes.stages.dropping import DROPPED, dropped_section, write_dropped

ROWS = [Row("Who is Ann?", "A poet."), Row("", "A plain text."), Row("Where is Ben?", "In Oslo.")]


def log(*dropped: list[int] | None) -> list[dict[str, object]]:
    """Of a training of five steps, what was dropped after each that it took."""
    return [
        {"step": step, "steps": 5, **({} if each is None else {"early_drop": {"dropped": each, "left": 0}})}
        for step, each in enumerate(dropped, 1)
    ]


def test_rows_are_counted_by_step_and_listed(tmp_path: Path) -> None:
    text = write_dropped(tmp_path, log(None, [2], None, [], None), ROWS)
    assert text == (
        "Early drop: 1 of 3 forget rows were no longer answered and left out of the rest of training (1 after step 2)."
    )
    assert [json.loads(line) for line in (tmp_path / DROPPED).read_text().splitlines()] == [
        {"step": 2, "row": 2, "question": "Where is Ben?"}
    ]
    assert "- after step 2: Where is Ben?" in dropped_section(tmp_path)


def test_a_training_that_ends_for_want_of_rows_says_so(tmp_path: Path) -> None:
    text = write_dropped(tmp_path, log([0], None, [1, 2]), ROWS)
    assert text.endswith("training (1 after step 1, 2 after step 3). None was left after step 3 of 5.")
    assert [line for line in dropped_section(tmp_path) if line.startswith("- ")] == [
        "- after step 1: Who is Ann?", "- after step 3: A plain text.", "- after step 3: Where is Ben?",
    ]  # fmt: skip


def test_nothing_dropped_is_said_too(tmp_path: Path) -> None:
    assert write_dropped(tmp_path, log(None, []), ROWS) == (
        "Early drop: 0 of 3 forget rows were no longer answered and left out of the rest of training."
    )


def test_a_training_without_early_drop_has_no_section(tmp_path: Path) -> None:
    assert dropped_section(tmp_path) == []
