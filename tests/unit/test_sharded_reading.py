"""Two workers read their own parts of a model and write it again: the weights are those of the whole model, bit by bit.

One group of two processes reads and writes every model; the tests compare what it left behind.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from obliviate.fit import read_in_parts
from obliviate.models import load_pretrained
from obliviate.schema import LoraSpec, ModelSpec
from obliviate.train.export import export
from obliviate.train.model import add_lora, build, checked
from obliviate.weights import WEIGHTS
from once import Once
from tiny import tiny_model_folder

LORA = LoraSpec(rank=2, dropout=0.0)
SHAPE: dict[str, Any] = {
    "vocab_size": 385, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
OF_GPT: dict[str, Any] = {"vocab_size": 384, "bos_token_id": 1, "eos_token_id": 2}
# 385 rows are not the same number for both workers. Mixtral's experts are fused when they are read, GPT-NeoX's head has
# another name in files, GPT-2 has learned positions and layers that are stored transposed.
MAKERS: dict[str, Callable[[], Any]] = {
    "untied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)).bfloat16(),
    "experts": lambda: MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=2)).bfloat16(),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**OF_GPT, n_embd=32, n_layer=2, n_head=4)),
    "neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(**OF_GPT, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    ),
}  # fmt: skip
NAMES = ("tied", *MAKERS)


def spec_of(folder: Path, name: str, lora: LoraSpec | None) -> ModelSpec:
    return ModelSpec(source=str(folder / name), compute_dtype="float32", lora=lora)


def read_and_write(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for name in NAMES:
        for lora in (None, LORA):
            spec = spec_of(folder, name, lora)
            model = checked(build(spec, seed=3, activation_checkpointing=False, device=torch.device("cpu")))
            ends = model.causal_lm.get_output_embeddings().weight, model.causal_lm.get_input_embeddings().weight
            found = {key.removeprefix("model."): each.full_tensor() for key, each in model.state_dict().items()}
            buffers = {key.removeprefix("model."): each for key, each in model.named_buffers()}
            with torch.no_grad():
                for key, parameter in model.named_parameters():
                    if "lora_B" in key:  # which begins as zero
                        parameter.fill_(0.5)
            export(model, spec, folder / f"{name} {lora is not None} written")
            if rank == 0:
                kept = {"weights": found, "buffers": buffers, "tied": ends[0] is ends[1]}
                torch.save(kept, folder / f"{name} {lora is not None}.pt")
    dist.destroy_process_group()


def make_and_read(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder(folder / "tied"))
    for name, make in MAKERS.items():
        torch.manual_seed(0)
        make().save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    mp.get_context("forkserver").set_forkserver_preload(["obliviate.train.export", "peft", "torch._dynamo"])
    mp.start_processes(read_and_write, (folder,), nprocs=2, start_method="forkserver")


@pytest.fixture(scope="module")
def folder(once: Once) -> Path:
    return once("sharded reading", make_and_read)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_parts_are_those_of_the_whole_model(folder: Path, name: str, adapted: bool) -> None:
    found = torch.load(folder / f"{name} {adapted}.pt")
    expected, _ = load_pretrained(spec_of(folder, name, None), dtype=torch.float32)
    tied = expected.get_output_embeddings().weight is expected.get_input_embeddings().weight
    buffers = dict(expected.named_buffers())
    model = add_lora(expected, LORA, 3) if adapted else expected
    weights = model.state_dict()
    assert found["weights"].keys() == weights.keys()
    assert all(torch.equal(found["weights"][key], each) for key, each in weights.items())
    prefix = "base_model.model." if adapted else ""
    assert found["buffers"].keys() == {prefix + key for key in buffers}
    assert all(torch.equal(found["buffers"][prefix + key], each) for key, each in buffers.items())
    assert found["tied"] == tied == (name in ("tied", "gpt2"))


@pytest.mark.parametrize("name", NAMES)
def test_what_was_not_trained_is_written_as_it_was_read(folder: Path, name: str) -> None:
    """Every tensor under its name, in its dtype, bit by bit; the config and the tokenizer with it."""
    source, written = folder / name, folder / f"{name} False written"
    before, after = load_file(source / WEIGHTS), load_file(written / WEIGHTS)
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype
        assert torch.equal(tensor, after[key])
    for file in ("config.json", "generation_config.json", "tokenizer_config.json"):
        assert json.loads((written / file).read_text()) == json.loads((source / file).read_text())
    for file in ("tokenizer.json", "chat_template.jinja"):
        assert (written / file).read_bytes() == (source / file).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_adapters_are_added_to_the_layers_as_peft_adds_them(folder: Path, name: str) -> None:
    model, _ = load_pretrained(spec_of(folder, name, None), dtype=torch.float32)
    adapted = add_lora(model, LORA, 3)
    with torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if "lora_B" in key:
                parameter.fill_(0.5)
    expected = adapted.merge_and_unload().state_dict()
    written = folder / f"{name} True written"
    found = AutoModelForCausalLM.from_pretrained(written, dtype=torch.float32).state_dict()
    stored = {each.dtype for each in load_file(written / WEIGHTS).values()}
    assert stored == {each.dtype for each in load_file(folder / name / WEIGHTS).values()}
    (dtype,) = stored
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor.to(dtype).float())


def test_models_whose_tensors_are_changed_when_read_are_not_read_in_parts(folder: Path) -> None:
    parts = {name: read_in_parts(spec_of(folder, name, None)) for name in NAMES}
    assert parts == {**dict.fromkeys(NAMES, True), "experts": False}
