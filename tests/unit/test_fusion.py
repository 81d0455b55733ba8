"""Adapters fused in closed form: by hand, by least squares, and what cannot be fused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from obliviate.config import build
from obliviate.errors import UserError
from obliviate.fusion import CONFIG, GRAMS, WEIGHTS, Part, fuse, fuse_layer
from obliviate_recipes.fuse import FuseRun

LAYER = "base_model.model.layer"


def part(seed: int, tokens: int = 20, rank: int = 2, scale: float = 0.5, size: int = 6) -> tuple[Part, Tensor]:
    """A random adapter of four outputs, and the inputs X behind its Gram matrix."""
    generator = torch.Generator().manual_seed(seed)
    x_ND = torch.randn(tokens, size, generator=generator)
    a_RD, b_OR = torch.randn(rank, size, generator=generator), torch.randn(4, rank, generator=generator)
    return Part(a_RD, b_OR, scale, x_ND.T @ x_ND), x_ND


def change(each: Part) -> Tensor:
    return each.scale * each.b_OR @ each.a_RD


def test_two_requests_that_use_different_directions_both_keep_their_own() -> None:
    """One reads the first axis and writes 3, the other the second and writes 5: the fused layer does both."""
    one = Part(torch.tensor([[1.0, 0]]), torch.tensor([[3.0]]), 1.0, torch.diag(torch.tensor([4.0, 0])))
    two = Part(torch.tensor([[0, 1.0]]), torch.tensor([[5.0]]), 1.0, torch.diag(torch.tensor([0, 9.0])))
    a, b = fuse_layer([one, two], ridge=1e-9)
    torch.testing.assert_close(b @ a, torch.tensor([[3.0, 5.0]]), rtol=1e-6, atol=1e-6)


def test_along_a_shared_direction_the_more_used_one_counts_more() -> None:
    """Squared lengths 3 and 1 of inputs along one axis: (3 x 4 + 1 x 8) / 4 = 5."""
    parts = [Part(torch.ones(1, 1), torch.tensor([[w]]), 1.0, torch.tensor([[g]])) for w, g in ((4.0, 3.0), (8.0, 1.0))]
    a, b = fuse_layer(parts, ridge=1e-12)
    assert (b @ a).item() == pytest.approx(5, rel=1e-6)


def test_along_directions_that_nobody_uses_it_is_the_mean() -> None:
    parts = [Part(torch.ones(1, 2), torch.tensor([[w]]), 1.0, torch.diag(torch.tensor([1.0, 0.0]))) for w in (2.0, 6.0)]
    a, b = fuse_layer(parts, ridge=1e-3)
    assert (b @ a)[0, 1].item() == pytest.approx(4, rel=1e-6)


@given(seed=st.integers(0, 1000))
def test_it_is_the_least_squares_solution(seed: int) -> None:
    """min over W of the sum of |X_i W^T - X_i W_i^T|^2, by a solver that sees the inputs themselves."""
    (one, x_one), (two, x_two) = part(seed), part(seed + 5000, rank=3, scale=2.0)
    a, b = fuse_layer([one, two], ridge=1e-10)
    assert a.shape[0] == b.shape[1] == 5
    stacked = torch.cat([x_one, x_two]).double()
    wanted = torch.cat([x_one.double() @ change(one).double().T, x_two.double() @ change(two).double().T])
    expected = torch.linalg.lstsq(stacked, wanted).solution.T
    torch.testing.assert_close((b @ a).double(), expected, rtol=1e-3, atol=1e-3)


@given(seed=st.integers(0, 1000), ridge=st.floats(1e-6, 1.0))
def test_one_adapter_alone_stays_as_it_is(seed: int, ridge: float) -> None:
    each, _ = part(seed)
    a, b = fuse_layer([each], ridge)
    torch.testing.assert_close(b @ a, change(each), rtol=1e-4, atol=1e-4)


def adapter(folder: Path, seed: int, base: str, layer: str = LAYER, **config: Any) -> Path:
    """A run with an adapter in it; returns the adapter's folder."""
    each, _ = part(seed)
    (folder / "model").mkdir(parents=True)
    values = {"peft_type": "LORA", "r": 2, "lora_alpha": 1.0, "base_model_name_or_path": base, **config}
    (folder / "model" / CONFIG).write_text(json.dumps(values))
    save_file({f"{layer}.lora_A.weight": each.a_RD, f"{layer}.lora_B.weight": each.b_OR}, folder / "model" / WEIGHTS)
    save_file({f"{layer}.lora_A.weight": each.gram_DD}, folder / GRAMS)
    return folder / "model"


def test_files_are_fused_layer_by_layer(tiny: Path, tmp_path: Path) -> None:
    base = str(tiny)
    adapters = {name: adapter(tmp_path / name, seed, base) for seed, name in enumerate(("ada", "bob"))}
    fuse(adapters, base, tmp_path / "fused", ridge=1e-6)
    config = json.loads((tmp_path / "fused" / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 4)  # the scales are in B
    found = load_file(tmp_path / "fused" / WEIGHTS)
    a, b = fuse_layer([part(0)[0], part(1)[0]], ridge=1e-6)  # alpha 1 over rank 2: scale 0.5
    torch.testing.assert_close(found[f"{LAYER}.lora_A.weight"], a)
    torch.testing.assert_close(found[f"{LAYER}.lora_B.weight"], b)


def test_an_adapter_of_experts_is_refused(tiny: Path, tmp_path: Path) -> None:
    adapters = {"ada": adapter(tmp_path / "ada", 0, str(tiny), target_parameters=["mlp.experts.down_proj"])}
    with pytest.raises(
        UserError, match=r"adapters\.ada: .*: changes a mixture's experts, whose adapters cannot be fused$"
    ):
        fuse(adapters, str(tiny), tmp_path / "fused", ridge=1e-3)


def test_an_adapter_of_another_base_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    adapters = {"ada": adapter(tmp_path / "ada", 0, str(tiny)), "bob": adapter(tmp_path / "bob", 1, "some/other-model")}
    with pytest.raises(UserError, match=r"adapters\.bob: .* was trained on some/other-model, not on .* train it again"):
        fuse(adapters, str(tiny), tmp_path / "fused", ridge=1e-3)
    assert not (tmp_path / "fused").exists()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("none", r"no adapter \(no adapter_config.json"),
        ("dora", "is no plain LoRA"),
        ("grams", "has no grams.safetensors"),
        ("config", r"adapter_config\.json: is no JSON .*; mend it"),
        ("layers", "changes other layers than ada"),
    ],
)
def test_what_cannot_be_fused(tiny: Path, tmp_path: Path, broken: str, message: str) -> None:
    base = str(tiny)
    first = adapter(tmp_path / "ada", 0, base)
    second = tmp_path / "bob" / "model"
    if broken != "none":
        layer = "base_model.model.other" if broken == "layers" else LAYER
        second = adapter(tmp_path / "bob", 1, base, layer, **({"use_dora": True} if broken == "dora" else {}))
    if broken == "grams":
        (tmp_path / "bob" / GRAMS).unlink()
    if broken == "config":
        (second / "adapter_config.json").write_text("{")
    with pytest.raises(UserError, match=message):
        fuse({"ada": first, "bob": second}, base, tmp_path / "fused", ridge=1e-3)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "requests: there are none, and no adapters"),
        (
            {"requests": {"ada": {"type": "fictitious"}}, "adapters": {"ada": "runs/x"}},
            "ada: is among the requests too",
        ),
        ({"requests": {"ada": {"type": "fictitious"}}, "cluster": {"workers": 2}}, "an adapter is trained by one"),
        (
            {"requests": {"ada": {"type": "fictitious"}}, "method": "sku"},
            "method: task_vector: what it learns is to be",
        ),
    ],
)
def test_a_config_that_fuses_nothing(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(FuseRun, {"model": {"source": "x"}, "method": "eul", **keys}, where="test")


def test_adapters_are_kept_whatever_becomes_of_the_fused_model() -> None:
    values = {"model": {"source": "x"}, "method": "eul", "requests": {"ada": {"type": "fictitious"}}}
    lora = build(FuseRun, values, where="test").unlearning("ada").model.lora
    assert lora is not None
    assert not lora.merge
