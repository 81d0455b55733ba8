"""The retain set's share of a finished change, taken out of it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from moe import moe_folder
from obliviate import sanitise as module
from obliviate.config import UnlearnRun, build
from obliviate.directions import Directions, leading
from obliviate.errors import UserError
from obliviate.models import load_pretrained
from obliviate.sanitise import retained_directions, sanitised
from obliviate.schema import ModelSpec
from obliviate.train import launch as trainer
from recipes import unlearned
from tiny import tiny_model_folder

WEIGHTS = "model.safetensors"


def test_directions_by_hand() -> None:
    found = leading(torch.diag(torch.tensor([4.0, 9.0, 1.0])), 0.9)
    assert found.energy_K.tolist() == [9, 4]
    assert found.vectors_DK.abs().tolist() == [[0, 1], [1, 0], [0, 0]]


class TestClosedForm:
    AXES = Directions(torch.tensor([3.0, 1.0]), torch.tensor([[1.0, 0], [0, 1], [0, 0]]))

    def test_by_hand(self) -> None:
        """Along a direction of energy 3 a quarter is left, of energy 1 a half, across them all."""
        assert sanitised(torch.tensor([[4.0, 4, 4]]), self.AXES, 1.0).tolist() == [[1, 2, 4]]

    def test_limits(self) -> None:
        change = torch.tensor([[4.0, 4, 4]])
        torch.testing.assert_close(sanitised(change, self.AXES, 1e-9), change)
        torch.testing.assert_close(sanitised(change, self.AXES, 1e9), torch.tensor([[0.0, 0, 4]]))
        nothing = Directions(torch.zeros(0), torch.zeros(3, 0))
        assert torch.equal(sanitised(change, nothing, 1.0), change)

    def test_it_is_the_least_of_what_it_minimises(self) -> None:
        torch.manual_seed(0)
        inputs_ND, change_OD, strength = torch.randn(20, 5), torch.randn(3, 5), 0.7
        gram = inputs_ND.T @ inputs_ND
        mean = gram.trace() / 5
        found, vectors = leading(gram, 1.0)
        z = sanitised(change_OD, Directions(found / mean, vectors), strength)

        def cost(z_OD: Tensor) -> float:
            seen = (z_OD @ inputs_ND.T).square().sum() / mean
            return float((z_OD - change_OD).square().sum() + strength * seen)

        for _ in range(20):
            assert cost(z) < cost(z + 0.01 * torch.randn(3, 5))


def test_directions_are_those_of_the_models_inputs(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same whether all layers are measured at once or one after another."""
    model, _ = load_pretrained(ModelSpec(source=str(tiny)), dtype=torch.float32)
    texts = [(1, 2, 3, 4), (5, 6, 7)]
    name, seen = "model.layers.1.mlp.down_proj", list[Tensor]()
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0].detach()))
    found = retained_directions(model, texts, 0.8)
    handle.remove()
    x_ND = torch.cat(seen)
    gram = x_ND.T @ x_ND
    expected = leading(gram, 0.8)
    torch.testing.assert_close(found[f"{name}.weight"].energy_K, expected.energy_K / (gram.trace() / len(gram)))
    assert not any("lm_head" in each or "embed" in each for each in found)
    monkeypatch.setattr(module, "AT_ONCE_BYTES", 1)
    apart = retained_directions(model, texts, 0.8)
    assert all(torch.allclose(apart[each].energy_K, found[each].energy_K) for each in found)


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Training writes another tiny model; the folders that it was written to."""
    other, folders = tiny_model_folder(tmp_path / "other", seed=1), []

    def launch(job: Any, cluster: Any, folder: Path, on_step: Any) -> None:
        shutil.copytree(other, folder)
        folders.append(folder)

    monkeypatch.setattr(trainer, "launch", launch)
    return folders


def unlearn(tiny: Path, runs: Path, *overrides: str) -> Path:
    values = {
        "model": {"source": str(tiny), "max_length": 64},
        "data": {"type": "fictitious", "people": 6},
        "method": "ga",
        "runs": str(runs),
    }
    return unlearned(build(UnlearnRun, values, overrides, where="test"))


def test_a_finished_run_is_sanitised_without_training_again(tiny: Path, tmp_path: Path, trained: list[Path]) -> None:
    plain = unlearn(tiny, tmp_path / "runs")
    weak, strong = (unlearn(tiny, tmp_path / "runs", f"sanitisation.strength={each}") for each in ("1e-9", "1e9"))
    assert trained == [plain]
    before, after, same, gone = (load_file(folder / WEIGHTS) for folder in (tiny, plain, weak, strong))
    name, embeddings = "model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight"
    torch.testing.assert_close(same[name], after[name])
    assert (gone[name] - before[name]).norm() < 0.9 * (after[name] - before[name]).norm()
    assert torch.equal(gone[embeddings], after[embeddings])
    assert "its change sanitised (strength 1e+09)" in (strong / "README.md").read_text()
    assert "sanitised" not in (plain / "README.md").read_text()


def test_what_cannot_be_sanitised(tmp_path: Path, trained: list[Path]) -> None:
    experts = moe_folder(tmp_path / "model", "mixtral")
    with pytest.raises(UserError, match=r"holds several experts, .*: leave sanitisation out"):
        unlearn(experts, tmp_path / "runs", "sanitisation={}")
    with pytest.raises(UserError, match=r"model\.lora\.merge: false keeps an adapter, and sanitisation changes whole"):
        unlearn(experts, tmp_path / "runs", "sanitisation={}", "model.lora={merge: false}")
    assert trained == []
