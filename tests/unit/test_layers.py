"""Layered unlearning: which rows each training forgets and keeps, and from which model it starts."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from obliviate.config import UnlearnRun, build
from obliviate.data.rows import Corpus, Row
from obliviate.errors import UserError
from obliviate.train import launch as trainer
from obliviate_recipes.stages.layers import layered
from recipes import unlearned
from tiny import tiny_model_folder

ROWS = tuple(Row(f"q{i}", f"a{i}") for i in range(7))
KEPT = (Row("r", "s"),)


def test_each_training_forgets_one_more_fold_and_keeps_those_to_come() -> None:
    """Seven rows in three folds: 3, 5 and 7 are forgotten, 4, 2 and none kept, whichever they are."""
    parts = list(layered(Corpus(ROWS, KEPT, ()), 3, seed=0))
    assert [len(part.forget) for part in parts] == [3, 5, 7]
    for part in parts:
        assert part.retain[0] == KEPT[0]
        assert {*part.forget, *part.retain[1:]} == {*ROWS}
        assert len(part.forget) + len(part.retain) == 8
    assert set(parts[0].forget) < set(parts[1].forget) < set(parts[2].forget) == {*ROWS}
    again, other = (list(layered(Corpus(ROWS, KEPT, ()), 3, seed=seed)) for seed in (0, 1))
    assert again == parts
    assert other != parts


def test_the_trainings_are_a_chain_and_each_is_made_once(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[Any] = []

    def launch(job: Any, cluster: Any, folder: Path, on_step: Any) -> None:
        tiny_model_folder(folder, seed=len(jobs) + 1)
        jobs.append((job, folder))

    monkeypatch.setattr(trainer, "launch", launch)

    def unlearn(*overrides: str) -> Path:
        values = {
            "model": {"source": str(tiny), "max_length": 64},
            "data": {"type": "fictitious", "people": 6},
            "method": "npo+gd",
            "runs": str(tmp_path / "runs"),
        }
        return unlearned(build(UnlearnRun, values, overrides, where="test"))

    model = unlearn("layers.folds=2")
    (first, folder), (second, last) = jobs
    assert model == last
    assert "layer-2" in str(last)
    assert (first.model.source, second.model.source) == (str(tiny), str(folder))
    assert set(first.forget) < set(second.forget)
    assert {*first.retain} == {*second.retain, *second.forget} - {*first.forget}
    assert unlearn("layers.folds=2") == model
    shutil.rmtree(last.parent)
    unlearn("layers.folds=2")
    assert len(jobs) == 3  # the first layer is there still


def test_what_does_not_go_with_it() -> None:
    with pytest.raises(UserError, match=r"^layers\.folds: 8: the forget set has 7 rows; give at most as many folds"):
        list(layered(Corpus(ROWS, KEPT, ()), 8, seed=0))
    values = {"model": {"source": "x", "lora": {"merge": False}}, "data": {"type": "fictitious"}, "method": "npo+gd"}
    with pytest.raises(UserError, match=r"model\.lora\.merge: false keeps an adapter, and the next of layers starts"):
        build(UnlearnRun, {**values, "layers": {}}, where="test")
