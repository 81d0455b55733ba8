"""Mixtures of experts of several families, small enough for a unit test: random weights of a config of each.

Of two layers; where a family has dense layers below its experts, the first is one.
"""

from pathlib import Path
from typing import Any

HIDDEN, EXPERTS, TOP = 32, 4, 2
_COMMON: dict[str, Any] = {
    "hidden_size": HIDDEN, "intermediate_size": 48, "moe_intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts_per_tok": TOP, "max_position_embeddings": 128,
    "initializer_range": 0.1,
}  # fmt: skip
_DENSE_FIRST = {
    "n_routed_experts": EXPERTS, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
_MLA = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt_oss": {"num_local_experts": EXPERTS, "head_dim": 8},
    "granitemoe": {"num_local_experts": EXPERTS},
    "qwen2_moe": {"num_experts": EXPERTS, "shared_expert_intermediate_size": 24},
    "qwen3_moe": {"num_experts": EXPERTS, "head_dim": 8},
    "mixtral": {"num_local_experts": EXPERTS},
    "olmoe": {"num_experts": EXPERTS},
    "phimoe": {"num_local_experts": EXPERTS},
    "jamba": {
        "num_experts": EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4,
    },
    "deepseek_v3": _DENSE_FIRST | _MLA,
    "glm4_moe": _DENSE_FIRST | {"head_dim": 8},
    "dots1": _DENSE_FIRST | {"head_dim": 8},
    "llama4_text": {
        "num_local_experts": EXPERTS, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 48, "head_dim": 8,
        "num_experts_per_tok": 1,
    },
}  # fmt: skip


def moe(family: str, *, vocabulary: int = 96, seed: int = 0, **changes: Any) -> Any:
    """The model in float32, in evaluation mode."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    values = {**_COMMON, **ids, "vocab_size": vocabulary, "tie_word_embeddings": False, **FAMILIES[family], **changes}
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **values)).float().eval()


def moe_folder(folder: Path, family: str) -> Path:
    """Saved with the tokenizer of `tiny.tiny_model_folder`."""
    vocabulary, ids = _tokenizer(folder)
    moe(family, vocabulary=vocabulary, **ids).save_pretrained(folder)
    return folder


def gpt2_folder(folder: Path) -> Path:
    """A GPT-2, whose layers are Conv1D: weights of [inputs, outputs]. Saved with the same tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    vocabulary, ids = _tokenizer(folder)
    sizes = {"n_embd": HIDDEN, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.1}
    rates = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, **sizes, **rates, **ids)).save_pretrained(folder)
    return folder


def _tokenizer(folder: Path) -> tuple[int, dict[str, Any]]:
    """Written to the folder; its size, and its special tokens for the config."""
    from transformers import AutoTokenizer

    from tiny import tiny_model_folder

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder(folder))
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return len(tokenizer), {name: getattr(tokenizer, name) for name in names}
