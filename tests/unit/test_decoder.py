"""What differs between families: the output layer, the blocks, the own randomness; and that what is not understood is
refused."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from families.checks import NEW, greedy, load, prompts
from families.zoo import BY_NAME, spread, write
from obliviate.decoder import decoder_layers, decoder_of, final_hidden, head_of, require_same_logits
from obliviate.errors import UserError
from obliviate.inference.limits import require_one_rotation, switch_length
from obliviate.inference.vllm import reloads
from obliviate.schema import ModelSpec
from obliviate.train.export import export
from obliviate.train.loop import single_process
from obliviate.train.model import build, checked

CPU = torch.device("cpu")


def made(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(BY_NAME[name].model_config, dtype=torch.float32)
    spread(model)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "scale", "softcap"),
    [
        ("llama", 1.0, None),
        ("cohere", 0.4, None),  # logit_scale multiplies
        ("granite", 0.25, None),  # logits_scaling 4 divides
        ("hyperclovax", 0.2, None),  # logits_scaling multiplies
        ("falcon-h1", 0.25, None),  # lm_head_multiplier
        ("gemma2", 1.0, 3.0),
        ("recurrent-gemma", 1.0, 3.0),
        ("xlstm", 1.0, 3.0),
    ],
)
def test_heads(name: str, scale: float, softcap: float | None) -> None:
    head = head_of(made(name))
    assert (head.scale, head.softcap) == (pytest.approx(scale), softcap)


@pytest.mark.parametrize("name", ["hyperclovax", "falcon-h1", "recurrent-gemma", "llama4", "modernbert-decoder"])
def test_decoder_and_head_give_the_models_own_logits(name: str) -> None:
    model = made(name)
    ids_1T = torch.arange(20)[None]
    with torch.no_grad():
        hidden_BTD = final_hidden(model, decoder_of(model)(input_ids=ids_1T, use_cache=False)[0])
        torch.testing.assert_close(head_of(model).logits(hidden_BTD), model(ids_1T, use_cache=False).logits)
    require_same_logits(model)


def test_a_model_that_does_something_else_to_its_logits_is_refused() -> None:
    model = made("llama")
    model.lm_head.register_forward_hook(lambda _, __, logits_BTV: logits_BTV * 1.1)
    with pytest.raises(UserError, match=r"^model\.source: LlamaForCausalLM \(model_type llama\): .* docs/models\.md$"):
        require_same_logits(model)


def test_training_refuses_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(BY_NAME["granite"], tmp_path)
    monkeypatch.setattr("obliviate.decoder.DIVISORS", ())
    with single_process(), pytest.raises(UserError, match=r"^model\.source: GraniteForCausalLM"):
        checked(build(spec(tmp_path), seed=0, activation_checkpointing=False, device=CPU))


@pytest.mark.parametrize(
    ("name", "count"), [("gemma3-multimodal", 2), ("gemma3n", 4), ("opt", 2), ("mpt", 2), ("gpt2", 2), ("rwkv", 2)]
)
def test_blocks_are_those_of_the_text_model(name: str, count: int) -> None:
    """Gemma 3's vision tower has four layers, Gemma 3n other lists of modules beside its layers."""
    model = made(name)
    layers = decoder_layers(model)
    assert len(layers) == count
    with torch.no_grad():
        seen: list[Tensor] = []
        layers[0].register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
        model(torch.arange(9)[None])
    assert seen[0].shape[-2:] == (9, 64)


def spec(folder: Path, **fields: bool) -> ModelSpec:
    return ModelSpec(source=str(folder), compute_dtype="float32", **fields)


@pytest.mark.parametrize("name", ["gpt2", "falcon", "seed-oss", "phimoe"])
def test_a_models_own_dropout_is_off_unless_it_is_asked_for(tmp_path: Path, name: str) -> None:
    """GPT-2 drops in modules, Falcon reads its config at every step, Phi-MoE draws its experts."""
    write(BY_NAME[name], tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    rates = {key: 0.1 for key in config if "drop" in key and isinstance(config[key], float)}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | rates))
    ids_BT = torch.arange(40).reshape(2, 20)

    def differs(dropout: bool) -> bool:
        with single_process():
            model = build(spec(tmp_path / "model", dropout=dropout), seed=0, activation_checkpointing=False, device=CPU)
            keep = {"all": (slice(None), torch.arange(20).expand(2, -1) > 0)}
            once, again = (model(ids_BT, torch.ones_like(ids_BT), {}, {}, keep)["all/hidden"] for _ in range(2))
            if not dropout:
                export(model, spec(tmp_path / "model"), tmp_path / "out")
        return not torch.equal(once, again)

    assert differs(dropout=True)
    assert not differs(dropout=False)
    exported = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {key: exported.get(key) for key in rates} == rates


@pytest.mark.parametrize("name", ["rwkv", "mamba", "phi3-long", "xlstm", "openai-gpt"])
def test_a_model_in_training_answers_as_it_is(tmp_path: Path, name: str) -> None:
    """What early drop asks: here one prompt at a time, that of Phi-3 up to where its rotations change, and on."""
    write(BY_NAME[name], tmp_path)
    prompt = prompts()[0]
    with single_process():
        model = checked(build(spec(tmp_path), seed=0, activation_checkpointing=False, device=CPU))
        assert model.asked_alone
        model.eval()
        ids_1T = torch.tensor([prompt])
        said = model.say(ids_1T, torch.ones_like(ids_1T), NEW, {BY_NAME[name].model_config.eos_token_id})
    assert tuple(said[0, len(prompt) :].tolist())[:NEW] == greedy(load(tmp_path), prompt)


def test_activations_cannot_be_recomputed_everywhere(tmp_path: Path) -> None:
    write(BY_NAME["jetmoe"], tmp_path)
    with (
        single_process(),
        pytest.raises(UserError, match=r"^optim\.activation_checkpointing: JetMoeForCausalLM cannot"),
    ):
        build(spec(tmp_path), seed=0, activation_checkpointing=True, device=CPU)


def test_rotations_that_go_by_a_texts_length() -> None:
    long, short = BY_NAME["phi3-long"].model_config, BY_NAME["llama-yarn"].model_config
    assert (switch_length(long), switch_length(short)) == (16, None)
    require_one_rotation(short, ModelSpec(source="m"), "engine.max_model_len", 64)
    require_one_rotation(long, ModelSpec(source="m"), "engine.max_model_len", 15)
    with pytest.raises(
        UserError, match=r"^engine\.max_model_len: 16: m rotates .*; lower it to 15, or take the engine hf"
    ):
        require_one_rotation(long, ModelSpec(source="m"), "engine.max_model_len", 16)


def test_only_proved_architectures_are_reloaded() -> None:
    assert reloads({"architectures": ["LlamaForCausalLM"]})
    assert not reloads({"architectures": ["GptOssForCausalLM"]})
    assert not reloads({"architectures": ["Qwen3MoeForCausalLM"]})
    assert not reloads({})
