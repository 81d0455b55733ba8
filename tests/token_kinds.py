"""Tokenizers of several kinds, made from nothing."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = ["Question: Where was Ada born?\nAnswer: Ada was born in London.", "user assistant system", "Who is Bob?"]
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def with_bos(raw: Tokenizer, bos: str, **tokens: str) -> Any:
    raw.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, raw.token_to_id(bos))])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=bos, **tokens)


def sentencepiece_like(normalizer: Any, pre_tokenizer: Any) -> Any:
    """Puts a space before every text, adds <s>, has no chat template. No token spans two words."""
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    raw.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    )
    raw.normalizer, raw.pre_tokenizer = normalizer, pre_tokenizer
    raw.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse()])
    return with_bos(raw, "<s>", eos_token="</s>", unk_token="<unk>")


def llama2() -> Any:
    """As published: a space in front of every text, also of one that begins with a space."""
    prepend = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    return sentencepiece_like(prepend, None)


def llama2_metaspace() -> Any:
    """As converted since: a space in front of a text that has none."""
    return sentencepiece_like(None, pre_tokenizers.Metaspace(prepend_scheme="always", split=False))


def llama3() -> Any:
    """Byte-level; eos is <|end_of_text|>, but a turn ends with <|eot_id|>."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = with_bos(raw, "<|begin_of_text|>", eos_token="<|end_of_text|>")
    tokenizer.chat_template = LLAMA3_TEMPLATE
    return tokenizer


def metaspace_first() -> Any:
    """As Mistral's and TinyLlama's later files: a space in front of the conversation alone."""
    return sentencepiece_like(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False))
