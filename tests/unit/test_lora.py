"""Adapters reach every linear layer but the lm_head, whatever the family calls it and wherever its weight lies."""

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from moe import EXPERTS, FAMILIES, HIDDEN, moe, moe_folder
from obliviate.linear import linear_weights
from obliviate.models import load_pretrained, model_size
from obliviate.schema import LoraSpec, ModelSpec
from obliviate.train.export import export
from obliviate.train.loop import train
from obliviate.train.lora import add_lora
from training import job, quiet

IDS_BT = torch.tensor([[5, 17, 3, 44, 81, 9, 23, 60]])
RANK = 3
# Matrices that are no linear layer: embeddings and the head, biases of experts, convolutions, states of Mamba; and
# the step size's layer, whose weight Mamba reads without calling it.
NO_LAYER = re.compile(r"embed|lm_head|bias|conv1d|A_log|dt_proj")


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS_BT, use_cache=False).logits
    return found


def adapted(model: Any, spec: LoraSpec) -> Any:
    """Adapters that change something: they begin with a B of zeros."""
    found = add_lora(model, spec, seed=0).eval()
    torch.manual_seed(1)
    for name, parameter in found.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_has_an_adapter(family: str) -> None:
    """Rank x (inputs + outputs) for each matrix, one for each expert; whole models are counted apart from that."""
    model = moe(family)
    matrices = [each.shape for name, each in model.named_parameters() if each.ndim > 1 and not NO_LAYER.search(name)]
    expected = sum(RANK * (shape[0] if len(shape) == 3 else 1) * (shape[-1] + shape[-2]) for shape in matrices)
    found = add_lora(model, LoraSpec(rank=RANK), seed=0)
    assert sum(each.numel() for each in found.parameters() if each.requires_grad) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_and_merged_adapters_are_the_same_function(family: str, tmp_path: Path) -> None:
    """Both as they are trained, as peft reads them again, and in the weights."""
    base = moe(family)
    trained = adapted(deepcopy(base), LoraSpec(rank=RANK))
    now = logits(trained)
    assert float((now - logits(base)).abs().max()) > 0.1
    trained.save_pretrained(tmp_path)
    read = PeftModel.from_pretrained(deepcopy(base), tmp_path).eval()
    torch.testing.assert_close(logits(read), now, rtol=0, atol=1e-6)
    merged = trained.merge_and_unload()
    torch.testing.assert_close(logits(merged), now, rtol=1e-4, atol=1e-4)
    assert {name for name, _ in merged.named_parameters()} == {name for name, _ in base.named_parameters()}


def test_the_weights_of_an_expert_by_hand() -> None:
    """W + alpha / rank x B A of each expert: A's rows and B's columns of one expert, as peft lays them."""
    model = moe("qwen3_moe")
    before = model.model.layers[0].mlp.experts.down_proj.detach().clone()  # [4 experts, 32 outputs, 24 inputs]
    found = adapted(model, LoraSpec(rank=2, alpha=6.0))
    layer = found.base_model.model.model.layers[0].mlp.experts
    a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
    if layer.parameter_name != "down_proj":
        a, b = (each["default"].weight.detach() for each in (layer.base_layer.lora_A, layer.base_layer.lora_B))
    assert (a.shape, b.shape) == ((4 * 2, 24), (32, 2 * 4))
    after = found.merge_and_unload().model.layers[0].mlp.experts.down_proj
    for expert in range(EXPERTS):
        change = 3.0 * b[:, expert::EXPERTS] @ a[2 * expert : 2 * expert + 2]
        torch.testing.assert_close(after[expert], before[expert] + change)


def test_dropout_is_where_it_can_be() -> None:
    """peft drops nothing of what a parameter's adapter reads; other layers' adapters have it all the same."""
    found = add_lora(moe("mixtral"), LoraSpec(dropout=0.25), seed=0)
    rates = {
        name: each.p
        for name, each in found.named_modules()
        if isinstance(each, torch.nn.Dropout) and ".lora_dropout" in name
    }
    assert len(rates) == 2 * 4
    assert all("self_attn" in name and rate == 0.25 for name, rate in rates.items())


def test_layers_that_mamba_reads_past_an_adapter_have_none(tmp_path: Path) -> None:
    """Merged, an adapter that never worked would begin to."""
    config = MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=8)
    base = MambaForCausalLM(config).eval()
    trained = adapted(deepcopy(base), LoraSpec(rank=RANK))
    layers = {name.split(".")[-4] for name, each in trained.named_parameters() if each.requires_grad}
    assert layers == {"in_proj", "x_proj"}
    now = logits(trained)
    torch.testing.assert_close(logits(trained.merge_and_unload()), now, rtol=1e-4, atol=1e-4)


class TestTrained:
    """Under FSDP2, in a process group of one; of several workers tests/unit/test_train_workers.py says the same."""

    @staticmethod
    def trained(folder: Path, directory: Path, **lora: Any) -> Mapping[str, Any]:
        run = job(folder, directory / "run", epochs=1)
        run = replace(run, model=run.model.model_copy(update={"lora": LoraSpec(rank=2, **lora)}))
        model = train(run, quiet)
        export(model, run.model, directory / "model")
        return {name: each.full_tensor() for name, each in model.named_parameters() if each.requires_grad}

    @pytest.mark.usefixtures("process_group")
    @pytest.mark.parametrize("family", ["gpt_oss", "granitemoe", "qwen2_moe", "deepseek_v3"])
    def test_every_adapter_learns_and_the_exports_agree(self, family: str, tmp_path: Path) -> None:
        folder = moe_folder(tmp_path / "base", family)
        found = self.trained(folder, tmp_path / "kept", merge=False)
        self.trained(folder, tmp_path / "merged", merge=True)
        still = [name for name, each in found.items() if "lora_B" in name and not each.any()]
        assert still == []
        base, _ = load_pretrained(ModelSpec(source=str(folder)), dtype=torch.float32)
        before = logits(base)
        kept = logits(PeftModel.from_pretrained(base, tmp_path / "kept" / "model").eval())
        merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged" / "model").eval())
        torch.testing.assert_close(merged, kept, rtol=1e-5, atol=1e-5)
        assert float((kept - before).abs().max()) > 1e-3


class TestSize:
    """From the config alone, against the model itself."""

    @pytest.mark.parametrize("family", FAMILIES)
    def test_experts_that_a_token_does_not_meet_are_idle(self, family: str, tmp_path: Path) -> None:
        """Of four experts two are met, of llama4's one."""
        model = moe(family)
        model.config.save_pretrained(tmp_path)
        size = model_size(ModelSpec(source=str(tmp_path), lora=LoraSpec(rank=RANK)))
        experts = sum(each.numel() for each in model.parameters() if each.ndim == 3 and each.shape[0] == EXPERTS)
        assert size.idle == experts * (3 if family == "llama4_text" else 2) // EXPERTS
        whole = sum(each.numel() for each in model.parameters())
        found = add_lora(model, LoraSpec(rank=RANK), seed=0)
        assert size.trained == sum(each.numel() for each in found.parameters() if each.requires_grad)
        assert size.parameters == whole + size.trained
        assert size.active == size.parameters - size.idle - 2 * 96 * HIDDEN

    def test_conv1d(self, tmp_path: Path) -> None:
        """Per layer of GPT-2: 8 x (32 + 96) for q, k and v, 8 x (32 + 32), and 8 x (32 + 128) twice."""
        model = GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64))
        model.config.save_pretrained(tmp_path)
        size = model_size(ModelSpec(source=str(tmp_path), lora=LoraSpec(rank=8)))
        assert size.trained == 2 * 8 * (128 + 64 + 160 + 160)
        found = add_lora(model, LoraSpec(rank=8), seed=0)
        assert size.trained == sum(each.numel() for each in found.parameters() if each.requires_grad)

    def test_inputs_and_outputs(self) -> None:
        """gpt-oss keeps its experts' matrices as [inputs, outputs], the others as [outputs, inputs]."""
        oss = linear_weights(moe("gpt_oss"))["model.layers.0.mlp.experts.gate_up_proj"]
        qwen = linear_weights(moe("qwen2_moe"))["model.layers.0.mlp.experts.gate_up_proj"]
        assert (oss.inputs, oss.outputs, oss.experts, oss.met) == (32, 96, 4, 2)
        assert (qwen.inputs, qwen.outputs, qwen.experts, qwen.met) == (32, 48, 4, 2)
