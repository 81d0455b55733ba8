"""What changed between two states of one model, by hand and in whole folders."""

import shutil
from math import sqrt
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe import gpt2_folder, moe_folder
from obliviate.difference import changes, norms, total
from obliviate.errors import UserError
from obliviate.quantise import Format, quantise
from obliviate.weights import WEIGHTS
from tiny import tiny_model_folder

CODES: tuple[Format, ...] = ("int4_g128", "nf4")
QUERY, DOWN = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"


def changed(source: Path, folder: Path, **tensors: Tensor) -> Path:
    """The model with these added to its own."""
    shutil.copytree(source, folder)
    weights = load_file(folder / WEIGHTS)
    summed = {name.replace("__", "."): weights[name.replace("__", ".")] + each for name, each in tensors.items()}
    save_file({**weights, **summed}, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def test_a_change_of_rank_one(tiny: Path, tmp_path: Path) -> None:
    """2 u v^T with unit vectors: both of its norms are 2, and its stable rank is 1."""
    u, v = (torch.nn.functional.normalize(torch.randn(size), dim=0) for size in (32, 32))
    other = changed(tiny, tmp_path / "other", **{QUERY.replace(".", "__"): 2 * torch.outer(u, v)})
    found = changes(tiny, other, CODES)
    weight = load_file(tiny / WEIGHTS)[QUERY]
    assert len(found) == 14
    assert found[QUERY].frobenius == pytest.approx(2 / float(weight.norm()), rel=1e-5)
    assert found[QUERY].spectral == pytest.approx(2 / float(torch.linalg.matrix_norm(weight, 2)), rel=1e-5)
    assert found[QUERY].stable_rank == pytest.approx(1, rel=1e-5)
    assert found[QUERY].recoded_share("nf4") > 0.5
    same = found[DOWN]
    assert (same.frobenius, same.spectral, same.stable_rank, same.recoded_share("nf4")) == (0, 0, None, 0)
    assert same.kept("nf4") is None
    whole = total(found.values())
    assert whole.weights == sum(each.numel() for name, each in load_file(tiny / WEIGHTS).items() if "proj" in name)
    assert whole.recoded["int4_g128"] == found[QUERY].recoded["int4_g128"] > 0
    assert whole.frobenius == pytest.approx(2 / sqrt(sum(each.before.frobenius**2 for each in found.values())))
    assert whole.stable_rank == pytest.approx(1, rel=1e-5)


def test_what_a_format_rounds_away_keeps_its_codes(tiny: Path, tmp_path: Path) -> None:
    """A weight of 4.4 steps (largest: 7) that grows to 4.48 or to 4.52."""
    weights = load_file(tiny / WEIGHTS)
    row = torch.zeros(32, 32)
    row[0, :2] = torch.tensor([7.0, 4.4])
    base = changed(tiny, tmp_path / "base", **{QUERY.replace(".", "__"): row - weights[QUERY]})
    for growth, count in ((0.08, 0), (0.12, 1)):
        grown = torch.zeros(32, 32)
        grown[0, 1] = growth
        other = changed(base, tmp_path / f"other-{growth}", **{QUERY.replace(".", "__"): grown})
        found = changes(base, other, CODES)[QUERY]
        assert found.recoded["int4_g128"] == count
        assert found.kept("int4_g128") == pytest.approx(count / growth)  # a whole step of 1, if any
        assert found.stable_rank == pytest.approx(1)


def test_a_small_change_is_kept_on_average(tmp_path: Path) -> None:
    """Of a hundredth of the weights: few codes differ, and what they move by makes up for the others. Not where the
    weights lie on the levels already."""
    source = tiny_model_folder(tmp_path / "source", hidden_size=256)
    torch.manual_seed(0)
    names = [name for name in load_file(source / WEIGHTS) if name.endswith("_proj.weight")]
    shapes = {name: each.shape for name, each in load_file(source / WEIGHTS).items()}
    moved = {name.replace(".", "__"): 1e-3 * torch.randn(shapes[name]) for name in names}
    found = total(changes(source, changed(source, tmp_path / "other", **moved), CODES).values())
    assert 0.005 < found.recoded_share("nf4") < 0.1
    assert found.kept("nf4") == pytest.approx(1, abs=0.1)
    quantise(source, "nf4", tmp_path / "coarse")
    coarse = total(
        changes(tmp_path / "coarse", changed(tmp_path / "coarse", tmp_path / "moved", **moved), CODES).values()
    )
    assert coarse.kept("nf4") == pytest.approx(0, abs=0.1)


def test_quantising_changes_no_code(tiny: Path, tmp_path: Path) -> None:
    """Of the format itself."""
    quantise(tiny, "nf4", tmp_path / "found")
    found = total(changes(tiny, tmp_path / "found", CODES).values())
    assert found.recoded["nf4"] == 0 < found.recoded["int4_g128"]
    assert found.frobenius == pytest.approx(0.09, abs=0.03)


def test_experts_and_layers_of_inputs_by_outputs(tmp_path: Path) -> None:
    """Fused experts stand side by side: the largest singular value is that of one of them."""
    source = moe_folder(tmp_path / "moe", "granitemoe")
    name = "model.layers.0.block_sparse_moe.input_linear.weight"
    weights = load_file(source / WEIGHTS)[name]
    grown = torch.zeros_like(weights)
    grown[1, 0, 0], grown[2, 0, 0] = 3.0, 4.0
    found = changes(source, changed(source, tmp_path / "other", **{name.replace(".", "__"): grown}), CODES)[name]
    assert found.change.frobenius == pytest.approx(5)
    assert found.change.spectral == pytest.approx(4)
    assert found.before.spectral == pytest.approx(float(torch.linalg.matrix_norm(weights, 2).max()))
    gpt2 = gpt2_folder(tmp_path / "gpt2")
    assert all(each.frobenius == 0 for each in changes(gpt2, gpt2, CODES).values())


def test_other_models_are_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"other.*: .* is not in both .*: they are no states of one model"):
        changes(tiny, tiny_model_folder(tmp_path / "other", layers=3), CODES)
    with pytest.raises(UserError, match=r"wide.* has shape .* they are no states of one model"):
        changes(tiny, tiny_model_folder(tmp_path / "wide", hidden_size=64), CODES)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 3), st.integers(0, 2**31))
def test_spectral_norms_are_the_largest_singular_values(rows: int, columns: int, rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(rows, rank, generator=generator), torch.randn(rank, columns, generator=generator)
    found = norms(left @ right)
    expected = torch.linalg.matrix_norm((left @ right).double(), 2)
    assert found.spectral == pytest.approx(float(expected), rel=1e-5)
    assert found.spectral <= found.frobenius * (1 + 1e-5)
