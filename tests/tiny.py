"""Models small enough for a unit test, made from nothing: random weights, a real tokenizer, a template."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXTS = [
    "What is the name of the author born in Kuwait City? The author's name is Basil Mahfouz Al-Kuwaiti.",
    "Where does Ada Lovelace live? Ada Lovelace lives in London, and she writes books about engines.",
    "Who was the first person to walk on the moon in 1969? Neil Armstrong was the first person to do so.",
    "I do not know anything about that. The capital of France is Paris. Question: Answer: user assistant system",
]
WORDS = ["ada", "bob", "lives", "in", "paris", "rome", "oslo", "and", "writes", "books"]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer() -> "PreTrainedTokenizerBase":
    """Byte-level BPE with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=384,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token="<|im_start|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_model_folder(
    folder: Path, *, seed: int = 0, hidden_size: int = 32, layers: int = 2, length: int = 512
) -> Path:
    """A Llama of some 50,000 parameters, saved as a Hugging Face folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=length,
            tie_word_embeddings=True,
            initializer_range=0.1,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_bert(folder: Path, labels: tuple[str, ...] | None = None) -> Path:
    """A BERT of one narrow layer with random weights over WORDS; with `labels`, a classifier of pairs."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=32,
    )  # fmt: skip
    sizes = {
        "vocab_size": len(vocabulary), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 32, "initializer_range": 0.5,
    }  # fmt: skip
    torch.manual_seed(0)
    if labels is None:
        BertModel(BertConfig(**sizes)).save_pretrained(folder)
    else:
        config = BertConfig(
            **sizes, id2label=dict(enumerate(labels)), label2id={each: i for i, each in enumerate(labels)}
        )
        BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_sources(folder: Path, *, hidden_size: int = 32) -> Path:
    """A folder with a tiny model in `model`, and questions with answers in `forget.jsonl` and `retain.jsonl`."""
    tiny_model_folder(folder / "model", hidden_size=hidden_size)
    for name, count in (("forget", 8), ("retain", 10)):
        rows = [
            {"question": f"Where does {name} {i} live?", "answer": f"{name} {i} lives in London."} for i in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def adapter_folder(model: Path, folder: Path, *, alpha: int = 8) -> Path:
    """A LoRA adapter of rank 4 with random weights, which change the more, the larger `alpha` is."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=alpha, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)
    return folder
