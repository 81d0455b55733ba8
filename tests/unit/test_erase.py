"""Examples in the prompt that are forgotten exactly: the same selection as had they never been there, and its cost."""

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from obliviate.config import build
from obliviate.data.rows import Row, write_rows
from obliviate.erase import HolisticCost, Selection, Settings, spacing
from obliviate.errors import UserError
from obliviate.schema import ModelSpec
from obliviate_recipes.erase import SELECTION, Erase, EraseRun
from obliviate_recipes.events import QUIET

Vectors = dict[str, np.ndarray]


def points(count: int, seed: int, size: int = 3) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(count, size))
    return {f"row {i}": vector / np.linalg.norm(vector) for i, vector in enumerate(vectors)}


def state(selection: Selection) -> list[Any]:
    return [selection.chosen, [each.centroids_KD.tolist() for each in selection._iterations]]


@given(
    count=st.integers(2, 12), shots=st.integers(1, 5), seed=st.integers(0, 99),
    epsilon=st.sampled_from([1e-3, 0.1, 0.5, 3.0, None]), data=st.data(),
)  # fmt: skip
@settings(max_examples=25)
def test_what_is_forgotten_might_never_have_been_there(
    count: int, shots: int, seed: int, epsilon: float | None, data: st.DataObject
) -> None:
    """Bit for bit, after each of several requests, whether or not the selection was made anew."""
    vectors, how = points(count, seed), Settings(shots, epsilon, 4, seed)
    selection = Selection(vectors, how)
    for name in data.draw(st.lists(st.sampled_from(sorted(vectors)), unique=True, max_size=5)):
        selection.forget(name)
        del vectors[name]
        assert state(selection) == state(Selection(vectors, how))


def test_one_of_each_cluster_is_chosen() -> None:
    """Two clusters of three on a line, 0.1 apart: those in the middle are nearest to the means."""
    line = {"a": -1.1, "b": -1.0, "c": -0.9, "x": 0.9, "y": 1.0, "z": 1.1}
    vectors = {name: np.array([value, 0.0]) for name, value in line.items()}
    found = {frozenset(Selection(vectors, Settings(2, 1e-3, 10, seed)).chosen) for seed in range(5)}
    assert found == {frozenset({"b", "y"})}


def test_centroids_lie_on_the_lattice_of_their_iteration() -> None:
    selection = Selection(points(20, 0), Settings(3, 0.25, 5, 7))
    for t, each in enumerate(selection._iterations):
        _, phase_D = selection._lattice(t)
        steps = each.centroids_KD[each.counts_K > 0] / 0.25 - phase_D
        assert np.allclose(steps, np.rint(steps), atol=1e-9)


def test_a_coarser_lattice_makes_forgetting_cheaper() -> None:
    """Of 40 requests out of 200: every one moves a fine lattice's centroid, few a coarse one's."""

    def redone(epsilon: float) -> int:
        selection = Selection(points(200, 1), Settings(2, epsilon, 3, 0))
        for i in range(40):
            selection.forget(f"row {i}")
        return selection.work.redone

    assert redone(1e-6) == 40
    assert redone(1.0) < 20


def test_the_lattice_follows_the_number_of_examples() -> None:
    """4 iterations in 9 dimensions, clusters of 1024 / 2: 4 x 3 / (512 x 0.1), also for 2047 examples; of few, 0.5."""
    how = Settings(2, None, 4, 0)
    assert spacing(1024, 9, how) == spacing(1400, 9, how) == spacing(730, 9, how) == pytest.approx(12 / 51.2)
    assert spacing(2048, 9, how) == pytest.approx(6 / 51.2)
    assert spacing(20, 9, how) == 0.5
    assert spacing(20, 9, Settings(2, 0.1, 4, 0)) == 0.1


def test_where_there_are_examples_enough_few_move_a_centroid() -> None:
    """Of ten sets on average: in one, a centroid that lies near a lattice's edge is moved by many."""
    shares = []
    for seed in range(10):
        vectors = points(1024, seed, 16)
        selection = Selection(vectors, Settings(2, None, 3, seed))
        assert selection.epsilon < 0.5
        shares.append(np.mean([selection.moves(name) for name in vectors]))
    assert 0.02 < np.mean(shares) < 0.15


def test_what_would_move_a_centroid_is_known_before(tmp_path: Path) -> None:
    for epsilon in (0.3, None):
        vectors = points(40, 2)
        selection = Selection(vectors, Settings(2, epsilon, 3, 0))
        for name in list(vectors)[:20]:
            expected = selection.moves(name)
            assert selection.forget(name) is expected


def test_nothing_is_left_of_the_last_example() -> None:
    selection = Selection(points(2, 0), Settings(2, 0.1, 2, 0))
    for name in ("row 1", "row 0"):
        selection.forget(name)
    assert selection.chosen == ()


def test_the_holistic_cost_by_hand() -> None:
    """100 tokens more for each of 50 questions, 2 x 10 operations a token; 6 x 10 for training on 1000 tokens twice."""
    cost = HolisticCost(parameters=10, prompt_tokens=100, questions_per_request=50, unlearning=7)
    assert cost.inference == 2 * 10 * 100 * 50
    assert cost.total == 7 + 100_000
    assert cost.retraining(1000, epochs=2) == 120_000
    assert cost.retraining(1000, epochs=2, shards=4) == 30_000
    assert cost.break_even(120_000) == (120_000 - 7) / 2000
    assert cost.break_even(5) is None


ROWS = [Row(f"How many legs has animal {i}?", f"It has {i} legs.") for i in range(6)]


@pytest.fixture
def config(tiny: Path, tmp_path: Path) -> EraseRun:
    write_rows(tmp_path / "examples.jsonl", [*ROWS, ROWS[0]])
    write_rows(tmp_path / "forget.jsonl", ROWS[:2])
    values = {
        "model": {"source": str(tiny), "system_prompt": "Count."}, "examples": str(tmp_path / "examples.jsonl"),
        "forget": str(tmp_path / "forget.jsonl"), "shots": 2, "runs": str(tmp_path / "runs"), "iterations": 3,
    }  # fmt: skip
    return build(EraseRun, values, where="test")


class FakeEncoder:
    """A direction for each sentence, which depends on how many it is embedded with, as a real encoder's digits do."""

    def __init__(self, source: str, key: str) -> None: ...

    def embed(self, sentences: list[str]) -> np.ndarray:
        seeds = [crc32(f"{len(sentences)} {sentence}".encode()) for sentence in sentences]
        return np.concatenate([list(points(1, seed).values()) for seed in seeds]).astype(np.float32)


def test_a_model_with_the_examples_that_are_left(config: EraseRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("obliviate_eval.judges.similarity.SentenceEncoder", FakeEncoder)
    path = Erase(config).perform(QUIET)
    model = ModelSpec.model_validate(yaml.safe_load(path.read_text()))
    assert model.source == config.model.source
    assert model.system_prompt is not None
    assert model.system_prompt.startswith("Count.\n\nAnswer as in these examples.\n\nQuestion: How many")
    assert model.system_prompt.count("Question: ") == 2
    assert not any(row.question in model.system_prompt for row in ROWS[:2])
    found = json.loads((path.parent / SELECTION).read_text())
    assert len(found["forgotten"]) == 2
    assert found["operations"]["prompt_tokens"] > 10
    assert found["operations"]["total"] == found["operations"]["unlearning"] + found["operations"]["inference"]


def test_the_prompt_is_the_one_of_the_other_examples_alone(
    config: EraseRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the command makes by forgetting, and what it makes of a file that never held the two."""
    monkeypatch.setattr("obliviate_eval.judges.similarity.SentenceEncoder", FakeEncoder)
    write_rows(tmp_path / "others.jsonl", ROWS[2:])
    alone = config.model_copy(update={"examples": str(tmp_path / "others.jsonl"), "forget": None})
    forgotten, never = (yaml.safe_load(Erase(each).perform(QUIET).read_text()) for each in (config, alone))
    assert forgotten == never


def test_a_plain_text_is_no_example(config: EraseRun, tmp_path: Path) -> None:
    (tmp_path / "examples.jsonl").write_text('{"question": "How many?", "answer": "Two."}\n{"text": "Once."}\n')
    with pytest.raises(UserError, match=r"examples\.jsonl: row 2 is a plain text, .* give it a question"):
        Erase(config).perform(QUIET)


@pytest.mark.parametrize("shots", [2, 7])
def test_what_cannot_be_forgotten_or_chosen(config: EraseRun, tmp_path: Path, shots: int) -> None:
    write_rows(tmp_path / "forget.jsonl", [ROWS[0], Row("How many wings has it?", "Two.")])
    absent, few = r"forget\.jsonl: row 2 \('How many wings has it\?'\) is not among", "has only 6 different examples"
    with pytest.raises(UserError, match=absent if shots == 2 else few):
        Erase(config.model_copy(update={"shots": shots})).perform(QUIET)
