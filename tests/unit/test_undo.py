"""UNDO: a copy that has lost part of its weights is taught what the unlearned model says."""

from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from alone import alone
from obliviate.config import UnlearnRun, build
from obliviate.data.rows import write_rows
from obliviate.errors import UserError
from obliviate.train.initial import shrink
from obliviate.train.log import read_steps
from obliviate.train.model import build as build_model
from obliviate_recipes.costs.work import Trained
from obliviate_recipes.stage import all_of
from obliviate_recipes.train import UnlearnRecipe
from recipes import unlearned
from training import FORGET, job, weights

WEIGHTS = "model.safetensors"
OPTIM = {"learning_rate": 1e-2, "epochs": 12, "batch_size": 8, "micro_batch_size": 8, "warmup_steps": 0}


def config(tiny: Path, runs: Path, **changed: Any) -> UnlearnRun:
    values = {
        "model": {"source": str(tiny), "max_length": 64, "compute_dtype": "float32"},
        "data": {"type": "fictitious", "people": 4, "questions_per_person": 4},
        "method": "ga",
        "optim": {"learning_rate": 1e-3, "epochs": 1, "batch_size": 4},
        "undo": {"share": 0.5, "optim": OPTIM},
        "runs": str(runs),
        **changed,
    }
    return build(UnlearnRun, values, where="test")


@pytest.mark.usefixtures("process_group")
def test_the_loss_of_weights_by_hand(tiny: Path, tmp_path: Path) -> None:
    model = build_model(job(tiny, tmp_path).model, seed=0, activation_checkpointing=False, device=torch.device("cpu"))
    before = weights(model)
    shrink(model, 0.25, 0.0, seed=3)
    for name, value in weights(model).items():
        torch.testing.assert_close(value, 0.75 * before[name])
    shrink(model, 1.0, 0.1, seed=3)  # nothing is left but the noise
    drawn = weights(model)
    name = "model.model.layers.0.mlp.up_proj.weight"  # 64 outputs, 32 inputs
    bound = 0.1 * sqrt(6 / (64 + 32))
    assert 0.95 * bound < float(drawn[name].abs().max()) <= bound
    assert float(drawn[name].std()) == pytest.approx(bound / sqrt(3), rel=0.05)  # uniform
    assert float(drawn["model.model.norm.weight"].abs().max()) == 0
    shrink(model, 1.0, 0.1, seed=3)
    assert torch.equal(weights(model)[name], drawn[name])  # by the seed
    shrink(model, 1.0, 0.1, seed=4)
    assert not torch.equal(weights(model)[name], drawn[name])


def test_the_copy_learns_what_the_unlearned_model_says(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KL to the teacher falls; another share unlearns nothing again; a share near nothing changes nearly nothing."""
    alone(monkeypatch)
    folder = unlearned(config(tiny, tmp_path / "runs"))
    losses = [line["loss"] for line in read_steps(folder.parent)]
    assert losses[-1] < losses[0] / 2
    assert losses[0] > 0.01
    assert "distilled into a copy that had lost 50% of its weights" in (folder / "README.md").read_text()
    (teacher,) = (path for path in (tmp_path / "runs").glob("unlearn-*/model") if path != folder)
    still = {"learning_rate": 1e-12, "epochs": 1, "batch_size": 8}
    same = unlearned(config(tiny, tmp_path / "runs", undo={"share": 1e-9, "noise": 0, "optim": still}))
    assert len(list((tmp_path / "runs").glob("unlearn-*"))) == 3
    after, taught = load_file(same / WEIGHTS), load_file(teacher / WEIGHTS)
    for name, value in taught.items():
        torch.testing.assert_close(after[name], value)
    assert float((load_file(folder / WEIGHTS)["model.norm.weight"] - taught["model.norm.weight"]).abs().max()) > 0.01


def test_its_cost_is_planned(tiny: Path, tmp_path: Path) -> None:
    recipe = UnlearnRecipe(config(tiny, tmp_path / "runs"))
    first, second = (work for stage in all_of(recipe.stages) for work in stage.work())
    assert isinstance(first, Trained)
    assert isinstance(second, Trained)
    retain = len(recipe.corpus.retain)
    assert second.training.steps == 12 * retain // 8
    assert second.training.reference_texts == retain  # the teacher sees each once
    assert "distil into a copy that has lost 50% of its weights" in "\n".join(recipe.outline())


def test_what_does_not_go_with_it(tiny: Path, tmp_path: Path) -> None:
    asked = config(tiny, tmp_path / "runs").data.load().forget
    write_rows(tmp_path / "texts.jsonl", [*asked[:1], *FORGET])
    recipe = UnlearnRecipe(config(tiny, tmp_path / "runs", undo={"texts": str(tmp_path / "texts.jsonl")}))
    with pytest.raises(UserError, match=r"undo\.texts: .*: 1 of its rows are in the forget set; take them out"):
        list(recipe.outline())
    with pytest.raises(UserError, match=r"model\.lora\.merge: false keeps an adapter, and undo distils whole"):
        config(tiny, tmp_path, model={"source": str(tiny), "lora": {"merge": False}})
    assert config(tiny, tmp_path).needs_retain
    assert not config(tiny, tmp_path, undo={"texts": "x.jsonl"}).needs_retain
