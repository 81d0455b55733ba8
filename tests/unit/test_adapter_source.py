"""An adapter as the model: with its base it is what is trained, measured and written, and never the base alone."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from test_adapters import config
from torch import Tensor
from transformers import AutoModelForCausalLM

from obliviate.errors import UserError
from obliviate.inference.vllm import local_folder
from obliviate.methods import GA, GD
from obliviate.models import content_of, load_pretrained, load_tokenizer, portable
from obliviate.schema import LoraSpec, ModelSpec
from obliviate.train.loop import single_process
from obliviate.train.produce import train_and_write
from recipes import fused
from training import job, quiet

Weights = dict[str, Tensor]


@pytest.fixture
def adapter(tiny: Path, tmp_path: Path) -> Path:
    """Beside its base, which it names by a path that leads on from its own folder."""
    shutil.copytree(tiny, tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"]))
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    folder = tmp_path / "adapter"
    adapted.save_pretrained(folder)
    rename(folder, "../base")
    return folder


def rename(folder: Path, base: str | None) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base}))


def together(adapter: Path) -> Weights:
    base = AutoModelForCausalLM.from_pretrained(adapter.parent / "base", dtype=torch.float32)
    merged: Weights = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().state_dict()
    return merged


def close(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6, msg=name)


def trained(adapter: Path, folder: Path, lora: LoraSpec | None, learning_rate: float = 1e-12) -> Path:
    run = job(adapter, folder / "run", (GA(), GD()), learning_rate=learning_rate, warmup_steps=0)
    run = replace(run, model=run.model.model_copy(update={"lora": lora}))
    with single_process():
        train_and_write(run, folder / "model", quiet)
    return folder / "model"


def test_it_is_loaded_with_its_base(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = together(adapter)
    bare = AutoModelForCausalLM.from_pretrained(adapter.parent / "base").state_dict()
    assert not torch.equal(expected["model.layers.0.mlp.down_proj.weight"], bare["model.layers.0.mlp.down_proj.weight"])
    spec = ModelSpec(source=str(adapter))
    close(load_pretrained(spec, dtype=torch.float32)[0].state_dict(), expected)
    assert len(load_tokenizer(spec)) == 384  # the base's, where it has none
    monkeypatch.setenv("XDG_CACHE_HOME", str(adapter.parent / "cache"))
    close(AutoModelForCausalLM.from_pretrained(local_folder(spec), dtype=torch.float32).state_dict(), expected)


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=3, alpha=6, dropout=0.0), LoraSpec(rank=7)])
def test_a_training_that_hardly_moves_leaves_base_and_adapter(
    adapter: Path, tmp_path: Path, lora: LoraSpec | None
) -> None:
    written = trained(adapter, tmp_path, lora)
    close(AutoModelForCausalLM.from_pretrained(written, dtype=torch.float32).state_dict(), together(adapter))


def test_it_is_trained_further_as_the_adapter_that_it_is(adapter: Path, tmp_path: Path) -> None:
    """Rank and scale are its own; what is written is an adapter of the same base again."""
    written = trained(adapter, tmp_path, LoraSpec(rank=8, dropout=0.0, merge=False), learning_rate=1e-2)
    settings = json.loads((written / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (3, 6)
    assert settings["base_model_name_or_path"] == str(adapter.parent / "base")
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, written))
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    moved = load_pretrained(ModelSpec(source=str(written)), dtype=torch.float32)[0].state_dict()
    close(moved, {**together(adapter), **{name: moved[name] for name in moved if "q_proj" in name or "down" in name}})


def test_whole_training_moves_what_the_adapter_left_alone(adapter: Path, tmp_path: Path) -> None:
    written = trained(adapter, tmp_path, None, learning_rate=1e-2)
    after, before = AutoModelForCausalLM.from_pretrained(written).state_dict(), together(adapter)
    assert not torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])


def test_the_base_may_be_elsewhere(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = together(adapter)
    moved = Path(shutil.move(adapter.parent / "base", tmp_path / "moved"))
    with pytest.raises(UserError, match=r"^model\.base: \.\./base: the base of the adapter .* is not there; set model"):
        load_tokenizer(ModelSpec(source=str(adapter)))
    spec = ModelSpec(source=str(adapter), base=str(moved))
    close(load_pretrained(spec, dtype=torch.float32)[0].state_dict(), expected)
    rename(adapter, None)
    with pytest.raises(UserError, match=r"^model\.base: .* names no base model; set model\.base"):
        load_tokenizer(ModelSpec(source=str(adapter)))
    rename(adapter, "moved")  # from the folder that the command runs in, as PEFT has it
    monkeypatch.chdir(tmp_path)
    here = portable(ModelSpec(source="adapter"))
    assert here.base == str(moved)
    assert portable(spec).base == str(moved)
    shutil.copytree(moved, adapter / "moved")
    with pytest.raises(UserError, match=r"^model\.base: moved: .* could be .*adapter/moved or .*; set model\.base"):
        load_tokenizer(ModelSpec(source="adapter"))


def test_another_base_is_another_model(adapter: Path) -> None:
    spec = ModelSpec(source=str(adapter))
    before = content_of(spec)
    assert content_of(spec) == before
    os.utime(adapter.parent / "base" / "model.safetensors", (1, 1))
    assert content_of(spec) == before  # the same bytes
    with (adapter.parent / "base" / "model.safetensors").open("r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        last = handle.read(1)[0]
        handle.seek(-1, os.SEEK_END)
        handle.write(bytes([last ^ 1]))
    assert content_of(spec) != before


def test_what_does_not_fit_its_base_is_refused(adapter: Path, tiny: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    stray = {name.replace("layers.1", "layers.9"): tensor for name, tensor in weights.items()}
    save_file(stray, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"^model\.source: .*: 8 of the adapter's weights .* have no place in its base"):
        load_pretrained(ModelSpec(source=str(adapter)), dtype=torch.float32)
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(UserError, match=r"^model\.source: .*adapter_config\.json: is no JSON \(.*\); mend it"):
        load_pretrained(ModelSpec(source=str(adapter)), dtype=torch.float32)
    with pytest.raises(UserError, match=r"^model\.base: .*: .* is no adapter, which alone has a base; remove it"):
        load_pretrained(ModelSpec(source=str(tiny), base=str(tiny)), dtype=torch.float32)


def test_one_end_that_an_adapter_changes_is_no_longer_the_other(tiny: Path, tmp_path: Path) -> None:
    """The tiny model's output layer is its embeddings: an adapter on the one leaves the other as it is."""
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    embeddings = model.get_input_embeddings().weight.detach().clone()
    model.lm_head.weight = torch.nn.Parameter(embeddings.clone())
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    rename(tmp_path / "adapter", str(tiny))
    expected = adapted.merge_and_unload().lm_head.weight.detach()
    written = trained(tmp_path / "adapter", tmp_path, None)
    found = AutoModelForCausalLM.from_pretrained(written, dtype=torch.float32)
    torch.testing.assert_close(found.lm_head.weight.detach(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.get_input_embeddings().weight.detach(), embeddings, rtol=0, atol=1e-6)
    assert json.loads((written / "config.json").read_text())["tie_word_embeddings"] is False


def test_adapters_of_requests_need_a_whole_model(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model\.source: .*: is an adapter, which each request would train further"):
        fused(config(adapter, tmp_path, "Ada"))
