"""Pruned models: which weights go, by hand, and what their layers read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from moe import gpt2_folder, moe_folder
from obliviate.errors import UserError
from obliviate.prune import input_norms, prune, without
from obliviate.weights import WEIGHTS, tensors_in

TEXTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16]]


def model_of(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def test_by_hand() -> None:
    """Of six weights the smallest half; of each row the one with the lowest |W| times its input's norm."""
    weight = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 0.5, 6.0]])
    assert without(weight, weight.abs(), 0.5, by_output=False).tolist() == [[0, 0, 3], [-4, 0, 6]]
    scores = weight.abs() * torch.tensor([1.0, 4.0, 0.1])
    assert without(weight, scores, 0.34, by_output=True).tolist() == [[1, -2, 0], [-4, 0.5, 0]]
    assert torch.equal(without(weight, scores, 0.33, by_output=True), weight)  # less than one of three


@given(st.floats(0, 1), st.booleans(), st.integers(0, 2**31))
def test_what_stays_scores_no_less_than_what_goes(share: float, by_output: bool, seed: int) -> None:
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))
    found = without(weight, weight.abs(), share, by_output=by_output)
    for row, kept in zip(weight, found, strict=True) if by_output else [(weight.flatten(), found.flatten())]:
        gone = kept == 0
        assert int(gone.sum()) == int(share * len(row))
        assert torch.equal(kept[~gone], row[~gone])
        if gone.any() and not gone.all():
            assert row[gone].abs().max() <= row[~gone].abs().min()


def test_by_magnitude_each_layer_loses_its_share(tiny: Path, tmp_path: Path) -> None:
    """And neither the embedding nor the output layer, which are one, anything."""
    prune(tiny, 0.3, tmp_path / "found")
    before, after = load_file(tiny / WEIGHTS), load_file(tmp_path / "found" / WEIGHTS)
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        gone = after[name] != tensor
        assert int(gone.sum()) == (int(0.3 * tensor.numel()) if name.endswith("_proj.weight") else 0), name
        assert not after[name][gone].any()


def test_norms_are_those_of_what_the_layers_read(tiny: Path) -> None:
    """Of the first layer's attention, the normed embeddings; of the last one's, by the states that a model gives."""
    model = model_of(tiny)
    found = input_norms(model, TEXTS)
    squares = torch.zeros(32)
    with torch.no_grad():
        for text in TEXTS:
            states = model(torch.tensor([text]), output_hidden_states=True).hidden_states
            squares += model.model.layers[1].input_layernorm(states[1])[0].square().sum(0)
    for name in ("q_proj", "k_proj", "v_proj"):
        torch.testing.assert_close(found[f"model.layers.1.self_attn.{name}.weight"], squares.sqrt())
    assert len(found) == 14
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_wanda_keeps_small_weights_of_large_inputs(tiny: Path, tmp_path: Path) -> None:
    norms = input_norms(model_of(tiny), TEXTS)
    prune(tiny, 0.5, tmp_path / "found", norms)
    name = "model.layers.0.mlp.down_proj.weight"
    before, after = load_file(tiny / WEIGHTS)[name], load_file(tmp_path / "found" / WEIGHTS)[name]
    scores = before.abs() * norms[name]
    kept = after != 0
    assert kept.sum(1).unique().tolist() == [32]
    assert all(score[keep].min() >= score[~keep].max() for score, keep in zip(scores, kept, strict=True))
    assert not torch.equal(kept, without(before, before.abs(), 0.5, by_output=True) != 0)


def test_a_layer_of_inputs_by_outputs(tmp_path: Path) -> None:
    """A GPT-2 holds its weights the other way round: an output's weights are a column."""
    source = gpt2_folder(tmp_path / "source")
    norms = input_norms(model_of(source), TEXTS)
    prune(source, 0.25, tmp_path / "found", norms)
    name = "transformer.h.1.mlp.c_proj.weight"
    assert norms[name].shape == (128,)
    found = tensors_in(tmp_path / "found")
    (stored,) = (each.read() for key, each in found.items() if key.endswith("h.1.mlp.c_proj.weight"))
    assert (stored == 0).sum(0).tolist() == [32] * 32


def test_fused_experts_are_pruned_by_magnitude_alone(tmp_path: Path) -> None:
    source = moe_folder(tmp_path / "source", "granitemoe")
    with pytest.raises(UserError, match=r"experts\.gate_up_proj holds several experts.*prune by: magnitude"):
        input_norms(model_of(source), TEXTS)
    prune(source, 0.5, tmp_path / "found")
    experts = tensors_in(tmp_path / "found")["model.layers.0.block_sparse_moe.input_linear.weight"].read()
    assert (experts == 0).sum((1, 2)).tolist() == [96 * 32 // 2] * 4


def test_a_layer_that_reads_nothing_is_named(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"layers\.0\.self_attn\.q_proj\.weight reads nothing of the texts"):
        input_norms(model_of(tiny), [])
