"""Two requests' adapters, trained side by side on Ray and fused into one model."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from obliviate.config import build
from obliviate.data.rows import Row, write_rows
from obliviate.fusion import GRAMS
from obliviate.runs import RUN_FILE
from obliviate_recipes.fuse import FuseRun
from recipes import fused
from tiny import tiny_model_folder

pytestmark = pytest.mark.integration


@pytest.mark.usefixtures("ray_local")
def test_two_requests_become_one_model_and_a_withdrawn_one_costs_no_training(tmp_path: Path) -> None:
    base = tiny_model_folder(tmp_path / "base")
    retain = [Row(f"Who wrote book {i}?", f"Eve wrote book {i}.") for i in range(4)]
    write_rows(tmp_path / "retain.jsonl", retain)
    requests = {}
    for name in ("Ada", "Bob"):
        rows = [Row(f"Where does {name} live in year {i}?", f"{name} lives in London.") for i in range(4)]
        write_rows(tmp_path / f"{name}.jsonl", rows)
        requests[name] = {
            "type": "files",
            "forget": str(tmp_path / f"{name}.jsonl"),
            "retain": str(tmp_path / "retain.jsonl"),
        }
    values = {
        "model": {"source": str(base), "compute_dtype": "float32", "max_length": 64, "lora": {"rank": 2}},
        "requests": requests,
        "method": "eul",
        "optim": {"learning_rate": 1e-2, "epochs": 2, "batch_size": 4, "warmup_steps": 0},
        "concurrency": 2,
        "cluster": {"address": "local", "cpus_per_worker": 0.5},
        "runs": str(tmp_path / "runs"),
    }
    both = fused(build(FuseRun, values, where="test"))
    one = fused(build(FuseRun, {**values, "requests": {"Ada": requests["Ada"]}}, where="test"))
    runs = sorted((tmp_path / "runs").glob("adapter-*"))
    assert len(runs) == 2  # the second fusion trained nothing
    with safe_open(runs[0] / GRAMS, "pt") as grams:
        names = list(grams.keys())
    assert all(name.endswith(".lora_A.weight") for name in names)
    assert len(names) == 2 * 7
    weights = [AutoModelForCausalLM.from_pretrained(each).state_dict() for each in (base, both, one)]
    name = "model.layers.0.mlp.down_proj.weight"
    assert len({tuple(each[name].flatten().tolist()) for each in weights}) == 3
    assert all(torch.equal(each["model.norm.weight"], weights[0]["model.norm.weight"]) for each in weights)
    # a single adapter is fused to itself: the merged change is its own, scale x B A
    adapter = next(run for run in runs if "ada" in run.name)
    with safe_open(adapter / "model" / "adapter_model.safetensors", "pt") as kept:
        key = "base_model.model." + name.removesuffix(".weight")
        own = 32 / 2 * kept.get_tensor(f"{key}.lora_B.weight") @ kept.get_tensor(f"{key}.lora_A.weight")
    torch.testing.assert_close(weights[2][name] - weights[0][name], own, rtol=1e-4, atol=1e-5)
    assert (both.parent / RUN_FILE).exists()
    assert "Ada, Bob asked to forget" in (both / "README.md").read_text()
