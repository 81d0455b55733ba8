"""Files that do not fit each other or the config: one line with the key and the fix, before anything is loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import AutoTokenizer

from obliviate.data.rows import Row
from obliviate.errors import UserError
from obliviate.fit import check, check_rows, notes, read_in_parts
from obliviate.models import load_tokenizer, text_encoder
from obliviate.schema import LoraSpec, ModelSpec
from obliviate.weights import WEIGHTS


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def spec(folder: Path, **fields: Any) -> ModelSpec:
    return ModelSpec(source=str(folder), **fields)


def put(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_what_fits_is_not_refused(tiny: Path) -> None:
    check(spec(tiny), trained=True)
    check_rows(spec(tiny), [Row("Who?", "<|im_end|> Ada.")])
    assert notes(spec(tiny)) == []


def test_texts_longer_than_the_positions(tiny: Path) -> None:
    check(spec(tiny, max_length=512))
    with pytest.raises(UserError, match=r"^model\.max_length: 513: .* has positions for 512 tokens; set"):
        check(spec(tiny, max_length=513))


def test_a_vocabulary_other_than_the_weights(copy: Path) -> None:
    put(copy / "config.json", vocab_size=392)
    with pytest.raises(UserError, match=r"^model\.source: .* \[384, 32\] in the file and \[392, 32\] .* to 384, where"):
        check(spec(copy))


def test_layers_other_than_the_config_says(copy: Path) -> None:
    put(copy / "config.json", intermediate_size=72)
    with pytest.raises(UserError, match=r"^model\.source: .*mlp.*; take config\.json and weights of one model"):
        check(spec(copy))


def test_more_layers_than_the_config_says(copy: Path) -> None:
    put(copy / "config.json", num_hidden_layers=1)
    with pytest.raises(UserError, match=r"^model\.source: .*model\.layers\.1\..* there are 1 layers, which"):
        check(spec(copy))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": "384"}, r"no model config \(Validation error for field 'vocab_size'"),
        ({"pad_token_id": 9999}, r"its config\.json makes no model \(Padding_idx must be within num_embeddings\)"),
    ],
)
def test_a_config_that_makes_no_model(copy: Path, values: dict[str, Any], message: str) -> None:
    put(copy / "config.json", **values)
    with pytest.raises(UserError, match=rf"^model\.source: .*: {message}"):
        check(spec(copy))


def test_a_head_of_its_own_beside_a_config_that_shares_it(copy: Path) -> None:
    tensors = load_file(copy / WEIGHTS)
    twice = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    save_file(twice, copy / WEIGHTS, metadata={"format": "pt"})
    check(spec(copy))  # the same under both names, as some are stored
    save_file({**twice, "lm_head.weight": twice["lm_head.weight"] + 1}, copy / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"^model\.source: .* tie_word_embeddings: true, and lm_head\.weight in"):
        check(spec(copy))
    put(copy / "config.json", tie_word_embeddings=False)
    check(spec(copy))


class TestTokenizer:
    """With one token more than the model has embeddings."""

    @pytest.fixture
    def larger(self, copy: Path) -> Path:
        tokenizer = AutoTokenizer.from_pretrained(copy)
        tokenizer.add_tokens([AddedToken("<|image|>", special=True)], special_tokens=True)
        tokenizer.save_pretrained(copy)
        return copy

    def test_a_token_that_no_text_holds_does_no_harm(self, larger: Path) -> None:
        check(spec(larger))
        check_rows(spec(larger), [Row("Who?", "Ada.", perturbed_answers=("Bob.",))])

    @pytest.mark.parametrize(
        "row", [Row("Who?", "It is <|image|>."), Row("Who?", "A", perturbed_answers=("<|image|>",))]
    )
    def test_one_that_a_text_holds_is_named(self, larger: Path, row: Row) -> None:
        with pytest.raises(UserError, match=r"^model\.source: .* has 385 tokens and the model embeddings of 384, "):
            check_rows(spec(larger), [row])

    def test_one_of_the_template(self, larger: Path) -> None:
        template = "{% for m in messages %}<|image|>{{ m['content'] }}<|im_end|>{% endfor %}"
        with pytest.raises(UserError, match=r"and its chat template holds <\|image\|> \(384\): take the tokenizer"):
            check(spec(larger, chat_template=template))


class TestQuantised:
    @pytest.mark.parametrize(
        ("settings", "cause"),
        [
            (
                {"quant_method": "bitsandbytes", "load_in_4bit": True},
                "bitsandbytes is not installed; pip install",
            ),
            (
                {"quant_method": "gptq", "bits": 4},
                "gptqmodel is not installed; pip install gptqmodel, or",
            ),
            ({"quant_method": "awq", "bits": 4}, "gptqmodel is not installed"),
        ],
    )
    def test_without_the_package(self, copy: Path, settings: dict[str, Any], cause: str) -> None:
        put(copy / "config.json", quantization_config=settings)
        with pytest.raises(UserError, match=rf"^model\.source: .*: its weights are quantised .*, and {cause}"):
            check(spec(copy))

    def test_training_needs_plain_weights(self, copy: Path) -> None:
        put(copy / "config.json", quantization_config={"quant_method": "fp8"})
        with pytest.raises(UserError, match=r"its weights are quantised \(fp8\), and training needs plain ones; give"):
            check(spec(copy), trained=True)


def test_several_templates_without_a_default(copy: Path) -> None:
    """One may be chosen by its name."""
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").unlink()
    named = [{"name": "rag", "template": template}, {"name": "tool_use", "template": "x"}]
    put(copy / "tokenizer_config.json", chat_template=named)
    with pytest.raises(UserError, match=r"^model\.chat_template: .* several templates .*; give one of rag, tool_use"):
        check(spec(copy))
    chosen = spec(copy, chat_template="rag")
    check(chosen)
    tokenizer = load_tokenizer(chosen)
    assert tokenizer.decode(text_encoder(chosen, tokenizer).prompt("Who?")).startswith(
        "<|im_start|>user\nWho?<|im_end|>"
    )


def test_an_adapters_own_rank_is_said_to_hold(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": str(copy)}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    assert notes(spec(tmp_path / "adapter", lora=LoraSpec(rank=4, alpha=8))) == []
    (line,) = notes(spec(tmp_path / "adapter", lora=LoraSpec(rank=2, alpha=8)))
    assert line.startswith("model.lora: rank 2 and alpha 8 have no effect: ")
    assert "an adapter of rank 4 and alpha 8" in line
    assert read_in_parts(spec(tmp_path / "adapter", lora=LoraSpec()))
    assert not read_in_parts(spec(tmp_path / "adapter"))
