"""A package of somebody else's and a file in the working directory, on a real Ray: unlearn and evaluate run with them.

Only the command itself has the package on its path, and no worker: it gets there by Ray's runtime environment.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import others
from tiny import tiny_model_folder

pytestmark = pytest.mark.integration
NEAR = """
from obliviate.methods import GD


class Near(GD):
    type: str = "near"
"""


# In one process, and so on one Ray.
CODE = """
import sys
sys.path.insert(0, {site!r})
from obliviate_cli.main import main
for verb in ("unlearn", "evaluate"):
    sys.argv = ["obliviate", verb, verb + ".yaml"]
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
"""


def values_in(folder: Path, verb: str, file: str) -> dict[str, Any]:
    (run,) = (folder / "runs").glob(f"{verb}-*")
    found: dict[str, Any] = json.loads((run / file).read_text())
    return found


@pytest.mark.cluster
def test_unlearn_and_evaluate_with_classes_of_others(tmp_path: Path) -> None:
    model = {"source": str(tiny_model_folder(tmp_path / "model")), "max_length": 64}
    (tmp_path / "near_module.py").write_text(NEAR)
    site = others.install(tmp_path / "elsewhere" / "site")
    unlearning = {
        "model": model,
        "data": {"type": "towns", "towns": 2},
        "method": {"type": "capped", "cap": 3.0},
        "regularizers": ["keep", "near_module.Near"],
        "optim": {"epochs": 1, "batch_size": 2},
        "cluster": {"address": "local", "cpus_per_worker": 0.5},
    }
    evaluation = {
        "models": {"tiny": model},
        "data": {"type": "custom", "import": "others_package.data.Towns", "towns": 2},
        "evaluation": {
            "suite": {"metrics": ["words", "rouge"], "comparisons": ["items"]},
            "engine": {"type": "hf", "dtype": "float32", "cpus_per_replica": 0.5, "max_model_len": 64},
            "generation": {"max_new_tokens": 4},
        },
        "address": "local",
    }
    (tmp_path / "unlearn.yaml").write_text(json.dumps(unlearning))
    (tmp_path / "evaluate.yaml").write_text(json.dumps(evaluation))
    command = [sys.executable, "-c", CODE.format(site=str(site))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    config = values_in(tmp_path, "unlearn", "run.json")["config"]
    assert [each["import"] for each in (config["method"], *config["regularizers"])] == [
        "others_package.methods.Capped", "others_package.methods.Keep", "near_module.Near",
    ]  # fmt: skip
    parts = values_in(tmp_path, "unlearn", "steps.jsonl")["parts"]  # of the one step
    assert parts["capped"] == -3.0  # of an untrained model each token is below the cap
    assert set(parts) == {"capped", "keep", "near"}
    measured = values_in(tmp_path, "evaluate", "metrics.json")
    assert measured["sets"]["forget"]["words"]["scored"] == 2
    assert measured["comparisons"]["items"]["value"] == 2.0
    assert measured["titles"]["items"] == "Items of the forget set; a count"
