"""GPTQ and AWQ: rounding by hand, against rounding to the nearest, and layer after layer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from moe import gpt2_folder, moe_folder
from obliviate.calibrated import awq, calibrated, gptq
from obliviate.errors import UserError
from obliviate.quantise import quantise, quantised
from obliviate.weights import WEIGHTS, tensors_in

TEXTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16], list(range(20, 60))]


def model_of(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def error(weight_OD: Tensor, values_OD: Tensor, gram_DD: Tensor) -> float:
    off_OD = values_OD.float() - weight_OD
    return float(((off_OD @ gram_DD) * off_OD).sum())


def drawn(seed: int, outputs: int = 8, inputs: int = 200) -> tuple[Tensor, Tensor]:
    """A weight, and X^T X of inputs that hang together, a few of them large."""
    generator = torch.Generator().manual_seed(seed)
    weight_OD = torch.randn(outputs, inputs, generator=generator)
    x_TD = torch.randn(300, 40, generator=generator) @ torch.randn(40, inputs, generator=generator)
    x_TD[:, :5] *= 10
    return weight_OD, x_TD.T @ x_TD


def test_gptq_by_hand() -> None:
    """A step is 0.93 / 7. The first input, 3.6 steps, becomes 4; the second reads nearly the same and makes up for it:
    of its 1.5 steps, which would become 2, about 1.14 are left, and it becomes 1. The third is by itself."""
    weight = torch.tensor([[0.93 * 3.6 / 7, 0.2, 0.93]])
    gram = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    top = float(torch.tensor(0.93).bfloat16())
    assert (gptq(weight, gram, "int4_g128") / top * 7).round().tolist() == [[4, 1, 7]]
    assert (quantised(weight, "int4_g128").values.float() / top * 7).round().tolist() == [[4, 2, 7]]


def test_inputs_that_have_nothing_in_common_are_rounded_to_the_nearest() -> None:
    weight_OD, _ = drawn(0)
    for to in ("int8", "int4_g128"):
        found = gptq(weight_OD, torch.diag(torch.rand(200) + 0.1), to)
        assert torch.equal(found, quantised(weight_OD, to).values.float())


def test_an_input_that_is_always_zero_gets_no_weight() -> None:
    weight_OD, gram_DD = drawn(0)
    gram_DD[3], gram_DD[:, 3] = 0, 0
    found = gptq(weight_OD, gram_DD, "int4_g128")
    assert not found[:, 3].any()
    assert found[:, :3].any()
    assert gptq(weight_OD, torch.zeros(200, 200), "int4_g128").isfinite().all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("to", ["int8", "int4_g128"])
def test_both_keep_more_of_the_outputs_than_rounding_to_the_nearest(seed: int, to: Any) -> None:
    weight_OD, gram_DD = drawn(seed)
    nearest = error(weight_OD, quantised(weight_OD, to).values, gram_DD)
    assert error(weight_OD, gptq(weight_OD, gram_DD, to), gram_DD) < 0.7 * nearest
    assert error(weight_OD, awq(weight_OD, gram_DD, to), gram_DD) < 0.9 * nearest


def test_awq_is_never_worse_where_there_is_nothing_to_gain() -> None:
    weight_OD, _ = drawn(1)
    assert torch.equal(awq(weight_OD, torch.eye(200), "int8"), quantised(weight_OD, "int8").values.float())
    assert torch.equal(awq(weight_OD, torch.zeros(200, 200), "int8"), quantised(weight_OD, "int8").values.float())


@pytest.mark.parametrize("by", ["gptq", "awq"])
def test_a_layer_reads_what_rounded_layers_below_put_out(tiny: Path, by: Any) -> None:
    model = model_of(tiny)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    values = calibrated(model, TEXTS, "int4_g128", by)
    assert len(values) == 14
    assert not any(each._forward_pre_hooks or each._forward_hooks for each in model.modules())
    name = "model.layers.1.self_attn.q_proj.weight"
    gram_DD = torch.zeros(32, 32)
    with torch.no_grad():
        for text in TEXTS:  # its first layer is rounded, and so is what the second one reads
            states = model(torch.tensor([text]), output_hidden_states=True).hidden_states
            x_TD = model.model.layers[1].input_layernorm(states[1])[0]
            gram_DD += x_TD.T @ x_TD
    expected = {"gptq": gptq, "awq": awq}[by](before[name], gram_DD, "int4_g128")
    assert (values[name].float() - expected).abs().max() <= 0.01 * expected.abs().max()
    for each, value in values.items():
        assert torch.equal(model.get_parameter(each), value.float() if by == "gptq" else model.get_parameter(each))
        assert not torch.equal(model.get_parameter(each), before[each])


def test_a_folder_has_the_calibrated_values(tiny: Path, tmp_path: Path) -> None:
    values = calibrated(model_of(tiny), TEXTS, "int4_g128", "gptq")
    quantise(tiny, "int4_g128", tmp_path / "found", values)
    quantise(tiny, "int4_g128", tmp_path / "nearest")
    found, nearest = (load_file(tmp_path / name / WEIGHTS) for name in ("found", "nearest"))
    for name, tensor in found.items():
        assert torch.equal(tensor, values.get(name, nearest[name]))
    assert any(not torch.equal(found[name], nearest[name]) for name in values)


def test_a_layer_of_inputs_by_outputs(tmp_path: Path) -> None:
    """A GPT-2 holds its weights the other way round."""
    source = gpt2_folder(tmp_path / "source")
    values = calibrated(model_of(source), TEXTS, "int8", "gptq")
    assert values["transformer.h.1.mlp.c_proj.weight"].shape == (32, 128)
    quantise(source, "int8", tmp_path / "found", values)
    found = {name: each.read() for name, each in tensors_in(tmp_path / "found").items()}
    (stored,) = (each for name, each in found.items() if name.endswith("h.1.mlp.c_proj.weight"))
    assert torch.equal(stored.T, values["transformer.h.1.mlp.c_proj.weight"])


def test_fused_experts_are_refused(tmp_path: Path) -> None:
    model = model_of(moe_folder(tmp_path / "source", "granitemoe"))
    with pytest.raises(UserError, match=r"experts\.gate_up_proj holds several experts"):
        calibrated(model, TEXTS, "int8", "gptq")
