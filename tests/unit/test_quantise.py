"""Quantised models: codes by hand, what any weight's codes hold, and folders of all kinds."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from moe import FAMILIES, gpt2_folder, moe_folder
from obliviate.errors import UserError
from obliviate.quantise import FORMATS, FP4, NF4, Format, quantise, quantised
from obliviate.weights import INDEX, WEIGHTS, tensors_in

FEW_BITS: tuple[Format, ...] = ("int8", "int4_g128", "nf4", "fp4")
ROUNDING = 2**-8  # of bfloat16: of a group's largest value, and of a number


def levels(to: Format, width: int) -> tuple[Tensor, int]:
    """What the codes stand for, where the largest value is 1, and how many numbers of a row share it."""
    if to in ("nf4", "fp4"):
        return torch.tensor(NF4 if to == "nf4" else FP4), 64
    largest, size = (127, width) if to == "int8" else (7, 128)
    return torch.arange(-largest, largest + 1) / largest, size


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    """Normal numbers of any scale, some zero, in rows of one block or of more, the last of which is not full."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    rows, inputs = draw(st.integers(1, 4)), draw(st.sampled_from([1, 64, 128, 200]))
    found = torch.randn(rows, inputs, generator=generator) * 10.0 ** draw(st.integers(-6, 4))
    return found * (torch.rand(rows, inputs, generator=generator) < draw(st.sampled_from([0.0, 0.1, 1.0])))


class TestCodes:
    def test_int8_by_hand(self) -> None:
        """Steps of 2/127 and 4/127: 0.5 is 31.75 steps, 1 is 63.5 (to even: 64), and 31.75."""
        found = quantised(torch.tensor([[2.0, -0.5, 1.0], [1.0, -4.0, 0.0]]), "int8")
        assert found.codes.tolist() == [[127, -32, 64], [32, -127, 0]]
        expected = torch.tensor([[2.0, -64 / 127, 128 / 127], [128 / 127, -4.0, 0.0]]).bfloat16()
        assert torch.equal(found.values, expected)

    def test_int4_has_a_step_of_its_own_for_128_inputs(self) -> None:
        """Steps of 1 and, of the two inputs left, 0.5: 7, 1.4, -3.6 and 3.5, 1.3."""
        weight = torch.zeros(1, 130)
        weight[0, [0, 1, 127, 128, 129]] = torch.tensor([7.0, 1.4, -3.6, 3.5, 1.3])
        found = quantised(weight, "int4_g128")
        assert found.codes[0, [0, 1, 127, 128, 129]].tolist() == [7, 1, -4, 7, 3]
        assert found.values[0, [0, 1, 127, 128, 129]].tolist() == [7.0, 1.0, -4.0, 3.5, 1.5]
        assert int(found.codes.count_nonzero()) == 5

    def test_blocks_of_64_run_on_into_the_next_row(self) -> None:
        """Two rows of 48: the second block begins at column 16 of the second row."""
        weight = torch.zeros(2, 48)
        weight[0, 0], weight[1, 15], weight[1, 16], weight[1, 47] = 2.0, 1.2, 10.0, -7.0
        found = quantised(weight, "nf4")
        assert found.values[0, 0] == 2.0
        assert found.values[1, 15] == torch.tensor(2 * NF4[13]).bfloat16()  # 0.6 lies nearest to 0.5626
        assert found.values[1, 16] == 10.0
        assert found.values[1, 47] == torch.tensor(10 * NF4[1]).bfloat16()  # -0.7 to -0.6962
        assert found.codes[1, [15, 16, 47]].tolist() == [13, 15, 1]

    def test_fp4_by_hand(self) -> None:
        """12 times its levels are 0, 1/16, 2, 3, 4, 6, 8, 12: 5.1 lies nearest to 6, 0.02 to 0, -1.1 to -2."""
        found = quantised(torch.tensor([[12.0, 5.1, 0.02, -1.1, 0.05, -9.9, 10.1]]), "fp4")
        assert found.values.tolist() == [[12.0, 6.0, 0.0, -2.0, 0.0625, -8.0, 12.0]]

    @pytest.mark.parametrize("to", FEW_BITS)
    @given(weight=weights())
    def test_each_value_is_the_nearest_of_its_group(self, to: Format, weight: Tensor) -> None:
        found = quantised(weight, to)
        steps, size = levels(to, weight.shape[-1])
        flat = weight.flatten() if to in ("nf4", "fp4") else weight
        values = found.values.float().view_as(flat)
        for part, value in zip(flat.split(size, -1), values.split(size, -1), strict=True):
            top = part.abs().amax(-1, keepdim=True)
            nearest = (part[..., None] - steps * top[..., None]).abs().amin(-1)
            error = (part - value).abs()
            assert (error <= nearest + ROUNDING * (part.abs() + top)).all()
            assert (error <= steps.diff().max() / 2 * top + ROUNDING * (part.abs() + top)).all()

    @pytest.mark.parametrize("to", FEW_BITS)
    @given(weight=weights())
    def test_once_is_enough(self, to: Format, weight: Tensor) -> None:
        once = quantised(weight, to)
        again = quantised(once.values, to)
        assert torch.equal(again.values, once.values)
        assert torch.equal(again.codes, once.codes)

    @pytest.mark.parametrize("to", FEW_BITS)
    def test_zeros_stay_zeros(self, to: Format) -> None:
        weight = torch.zeros(2, 192)
        weight[0, 0] = 3.0
        assert torch.equal(quantised(weight, to).values.float(), weight)


def parameters(folder: Path) -> dict[str, Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())


@pytest.mark.parametrize("to", FORMATS)
def test_all_but_the_linear_layers_is_only_rounded(tiny: Path, tmp_path: Path, to: Format) -> None:
    """The output layer is the embedding: neither is quantised."""
    quantise(tiny, to, tmp_path / "found")
    before, after = load_file(tiny / WEIGHTS), load_file(tmp_path / "found" / WEIGHTS)
    dtype = torch.float16 if to == "fp16" else torch.bfloat16
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        linear = name.endswith("_proj.weight") and to in FEW_BITS
        expected = quantised(tensor, to).values if linear else tensor.to(dtype)
        assert torch.equal(after[name], expected), name
    config = json.loads((tmp_path / "found" / "config.json").read_text())
    assert config["dtype"] == str(dtype).removeprefix("torch.")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "found")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert (tmp_path / "found" / "tokenizer.json").exists()


def test_shards_stay_what_they_are(tiny: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    AutoModelForCausalLM.from_pretrained(tiny).save_pretrained(source, max_shard_size="60KB")
    quantise(source, "nf4", tmp_path / "found")
    quantise(tiny, "nf4", tmp_path / "whole")
    before, found = tensors_in(source), tensors_in(tmp_path / "found")
    assert len({each.file for each in before.values()}) > 2
    assert {name: each.file.name for name, each in before.items()} == {
        name: each.file.name for name, each in found.items()
    }
    index = json.loads((tmp_path / "found" / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(each.bytes for each in found.values())
    for name, tensor in load_file(tmp_path / "whole" / WEIGHTS).items():
        assert torch.equal(found[name].read(), tensor)


@pytest.mark.parametrize("family", FAMILIES)
def test_experts_are_quantised_as_layers_of_their_own(tmp_path: Path, family: str) -> None:
    """Fused or not in the files, and whichever way they lie: rows of a layer's inputs share a step."""
    quantise(moe_folder(tmp_path / "source", family), "int8", tmp_path / "found")
    before, after = parameters(tmp_path / "source"), parameters(tmp_path / "found")
    fused = [name for name, tensor in before.items() if tensor.ndim == 3 and "proj" in name and "bias" not in name]
    assert fused
    for name in fused:
        rows, found = before[name], after[name]
        if family in ("gpt_oss", "llama4_text"):  # which hold them the other way round
            rows, found = rows.mT, found.mT
        assert torch.equal(found.to(torch.bfloat16), quantised(rows, "int8").values), name
    for name, tensor in before.items():
        if ("router" in name and family != "jamba") or name == "lm_head.weight":
            assert torch.equal(after[name].bfloat16(), tensor.bfloat16()), name


def test_a_layer_of_inputs_by_outputs(tmp_path: Path) -> None:
    quantise(gpt2_folder(tmp_path / "source"), "int8", tmp_path / "found")
    before, after = parameters(tmp_path / "source"), parameters(tmp_path / "found")
    name = "transformer.h.1.mlp.c_fc.weight"
    assert torch.equal(after[name].mT.bfloat16(), quantised(before[name].mT, "int8").values)


def with_config(source: Path, folder: Path, **values: Any) -> Path:
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    return folder


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "compressed-tensors"])
def test_what_is_quantised_already_is_refused(tiny: Path, tmp_path: Path, method: str) -> None:
    source = with_config(tiny, tmp_path / "source", quantization_config={"quant_method": method})
    with pytest.raises(UserError, match=r"model\.source: .*source: is quantised already"):
        quantise(source, "int8", tmp_path / "found")
    assert not (tmp_path / "found").exists()


def test_numbers_that_are_none_of_torchs_are_refused(tiny: Path, tmp_path: Path) -> None:
    source = shutil.copytree(tiny, tmp_path / "source")
    tensors = load_file(source / WEIGHTS)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({**tensors, name: tensors[name].to(torch.float8_e4m3fn)}, source / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"{name} is stored as F8_E4M3, no plain numbers"):
        quantise(source, "int8", tmp_path / "found")


def test_what_float16_does_not_hold_is_refused(tiny: Path, tmp_path: Path) -> None:
    source = shutil.copytree(tiny, tmp_path / "source")
    tensors = load_file(source / WEIGHTS)
    tensors["model.norm.weight"][0] = 1e5
    save_file(tensors, source / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.norm\.weight has numbers that float16 does not hold"):
        quantise(source, "fp16", tmp_path / "found")
    quantise(source, "bf16", tmp_path / "found")
