"""AltPO from the command's side: alternatives are sampled on a real engine, then trained on, each once."""

from pathlib import Path

import pytest

from obliviate.config import UnlearnRun, build
from obliviate.runs import read_part
from obliviate.train.log import read_steps
from recipes import unlearned
from tiny import tiny_model_folder

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]


def test_altpo_just_works(tmp_path: Path) -> None:
    values = {
        "model": {"source": str(tiny_model_folder(tmp_path / "model")), "compute_dtype": "float32", "max_length": 96},
        "data": {"type": "fictitious", "people": 3, "forget_people": 1, "questions_per_person": 4},
        "method": "altpo+gd",
        "alternatives": {
            "samples": 3, "max_new_tokens": 8,
            "engine": {"type": "hf", "dtype": "float32", "cpus_per_replica": 0.5, "chunk_size": 2, "max_model_len": 96},
        },
        "optim": {"epochs": 2, "batch_size": 2},
        "cluster": {"address": "local", "cpus_per_worker": 0.5},
        "runs": str(tmp_path / "runs"),
    }  # fmt: skip
    config = build(UnlearnRun, values, where="test")
    folder = unlearned(config)
    (stage,) = (tmp_path / "runs").glob("alternatives-*")
    chunks = sorted((stage / "samples").iterdir())
    samples = {row: answers for path in chunks for row, answers in (read_part(path) or {}).items()}
    assert len(chunks) == 2  # of two questions each
    assert {row: len(answers) for row, answers in samples.items()} == {str(i): 3 for i in range(4)}
    assert len(set(map(tuple, samples.values()))) > 1
    steps = read_steps(folder.parent)
    assert len(steps) == 4
    # At the start the model is its own reference: -(2 / 0.1) log sigmoid(0) = 20 log 2.
    assert steps[0]["parts"]["altpo"] == pytest.approx(13.8629436, rel=1e-5)
    written_ns = [path.stat().st_mtime_ns for path in chunks]
    assert unlearned(config) == folder
    assert [path.stat().st_mtime_ns for path in chunks] == written_ns
