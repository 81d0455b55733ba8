"""What attacks brought back, as readers see it: the section of the report, the terminal, the page in plain words, the
model's card."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from obliviate.runs import RUN_FILE, Run, write_json
from obliviate_eval.recovery import Arm
from obliviate_eval.report.robustness import robustness_section, robustness_table, summary_page
from obliviate_eval.robustness import (
    PLAIN,
    ROBUSTNESS_FILE,
    Example,
    Robustness,
    Trial,
    figures_of,
    outcomes_of,
)
from obliviate_recipes.stages.card import CARD, Attacked, add_attacks, write_card
from recipes import Told

FULL, NEVER = (0.9, 0.7), (0.1, 0.1)


def _trial(attack: str, setting: str, after: tuple[float, float], left: float | None, **others: Any) -> Trial:
    arms = {"full": Arm(FULL, FULL), "never": Arm(NEVER, NEVER), "<new>": Arm((0.1, 0.3), after)}
    utility = {} if left is None else {"full": 1.0, "never": 1.0, "<new>": left}
    values = {"measure": "key_probability", "own_scale": False, "steps": None} | others
    return Trial(attack, setting, arms=arms, utility=utility, **values)


@pytest.fixture
def result() -> Robustness:
    trials = [
        _trial(PLAIN, "asked as usual", (0.1, 0.3), None),
        _trial("train", "train, 1 steps", (0.6, 0.4), 0.95, steps=1),
        _trial("train", "train, 5 steps", (0.8, 0.6), 0.5, steps=5),
        _trial("ruin", "ruin, hard", (0.0, 0.0), 0.0),
        _trial("look", "look inside", (0.4, 0.4), None, own_scale=True, measure="depth"),
    ]
    outcomes = {
        name: outcomes_of(name, trials, "full", "never", 0.1, resamples=100, seed=0)
        for name in ("full", "never", "<new>")
    }
    return Robustness(
        control="retain", split="row", attacked=2, items=2, utility_drop=0.1, outcomes=outcomes,
        models={name: figures_of(found) for name, found in outcomes.items()},
        examples={"<new>": Example("Where?", "Lima", "I <b>forgot</b>", {"train, 1 steps": "Lima"})},
    )  # fmt: skip


def test_it_is_read_as_it_was_written(result: Robustness, tmp_path: Path) -> None:
    result.write(tmp_path / ROBUSTNESS_FILE)
    assert Robustness.read(tmp_path / ROBUSTNESS_FILE) == result


def test_the_section_shows_each_attacks_worst_case(result: Robustness) -> None:
    section = robustness_section(result, ["<new>"])
    heat, curve = section.charts
    [trace] = heat.figure["data"]
    assert [list(row) for row in trace["z"]] == [[pytest.approx(0.5)], [None], [pytest.approx(1 / 3)]]
    assert list(trace["x"]) == ["&lt;new&gt;"]
    assert list(trace["y"]) == ["train", "ruin", "look"]
    recovered, taught = curve.figure["data"]
    assert list(recovered["x"]) == [0, 1, 5]
    assert list(taught["y"]) == [0, 0, 0]
    scores, figures, example = section.tables
    assert scores.rows[0][2] == "train, 1 steps (key_probability)"
    assert list(figures.rows[1][:3]) == ["ruin", "–", "ruins the model"]
    assert [list(row) for row in example.rows] == [["asked as usual", "I <b>forgot</b>"], ["train, 1 steps", "Lima"]]


def test_the_terminal_and_the_page_say_the_same(result: Robustness) -> None:
    told = Told()
    told.shown(robustness_table(result, ["<new>"]))
    page = summary_page("A deletion", result, ["<new>"])
    score = result.models["<new>"].score
    assert score is not None
    assert score.value is not None
    assert f"{score.value:.3f}" in told.text
    assert "known: 0 retain model, 1 original" in told.text
    assert f"brought back {1 - score.value:.0%}" in page
    assert "2 questions are too few" in page
    assert "no proof of removal" in page
    bare = result.model_copy(update={"control": "none"})
    told.shown(robustness_table(bare, ["<new>"]))
    assert "known: 0 nothing, 1 original" in told.text
    assert "what an attack teaches by itself counts as recovered" in summary_page("A deletion", bare, ["<new>"])


def test_what_cannot_be_told_is_said_so(result: Robustness) -> None:
    nothing = replace(result.models["<new>"], score=None, attack=None, measure=None)
    page = summary_page("A deletion", result.model_copy(update={"models": {"<new>": nothing}}), ["<new>"])
    assert "nothing can be told" in page
    assert "the original never knew them either" in page


def test_the_card_names_attacks_their_strength_and_what_came_back(result: Robustness, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    config = {"model": {"source": "base"}, "data": {"type": "files"}, "seed": 0, "train_on": "all",
              "optim": {"epochs": 1, "learning_rate": 1e-5, "batch_size": 1}}  # fmt: skip
    write_json(
        tmp_path / RUN_FILE,
        {"verb": "finetune", "label": "x", "config": config, "git_revision": None, "versions": {}, "inputs": {}},
    )
    run = Run(tmp_path, "")
    write_card(run, "model")
    assert "Not attacked yet" in (tmp_path / "model" / CARD).read_text(encoding="utf-8")
    figures = result.models["<new>"]
    add_attacks(run, "model", Attacked(control="retain", items=2, utility_drop=0.1, figures=figures))
    text = (tmp_path / "model" / CARD).read_text(encoding="utf-8")
    assert "| train | train, 1 steps | key_probability | 0.500 |" in text
    assert "| ruin | – | – | could not be told, at 1 settings |" in text
    assert "Robustness score" in text
    write_card(run, "model")
    assert (tmp_path / "model" / CARD).read_text(encoding="utf-8") == text
