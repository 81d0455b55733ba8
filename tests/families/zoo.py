"""The model families that people bring, each as a config small enough to be built in a moment.

Caps, scales and multipliers are strong, and biases and norms random, so that one left out moves log-probabilities by
far more than rounding. Entries name a config class of transformers and what differs from SIZES.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from math import sqrt
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from tiny import tiny_tokenizer

LENGTH = 128  # positions
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": LENGTH,
}
MULTI_HEAD = {"num_key_value_heads": 2}
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": LENGTH}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    **MULTI_HEAD,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 24,
}
ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
WINDOWS = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
MIXER = {
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
GATED_DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
    "head_dim": 32,
}


@dataclass(frozen=True)
class Family:
    name: str
    config: str  # class of transformers
    settings: dict[str, Any] = field(default_factory=dict)
    quick: bool = False  # in every test run, not only where all families are asked for
    tied: bool = False

    @property
    def vllm(self) -> bool:
        """Whether vLLM's answers are compared too: a start takes it half a minute."""
        return self.name in VLLM

    @property
    def model_config(self) -> PreTrainedConfig:
        kind = getattr(transformers, self.config)
        known = {key: value for key, value in SIZES.items() if hasattr(kind, key) or key in kind.attribute_map}
        shared = {"vocab_size": len(tokenizer()), "tie_word_embeddings": self.tied, **special_ids()}
        return kind(**{**({} if "n_embd" in self.settings else known), **shared, **self.settings})


VLLM = {
    "cohere", "exaone4", "falcon", "gemma", "gemma2", "gemma3", "glm4", "gpt-neox", "gpt-oss", "gpt2", "granite",
    "llama", "llama-tied", "mistral", "olmo2", "opt", "phi", "phi3", "phi3-long", "qwen2", "qwen3", "qwen3-moe",
    "smollm3",
}  # fmt: skip

FAMILIES = (
    Family("afmoe", "AfmoeConfig", {**EXPERTS, **WINDOWS, "num_dense_layers": 1, "num_shared_experts": 1}),
    Family("apertus", "ApertusConfig"),
    Family("arcee", "ArceeConfig"),
    Family("bamba", "BambaConfig", {**MIXER, "attn_layer_indices": [1]}),
    Family("biogpt", "BioGptConfig", {"hidden_act": "gelu"}),
    Family("bitnet", "BitNetConfig"),
    Family("bloom", "BloomConfig", {"n_head": 2, "n_layer": 2}, tied=True),
    Family("codegen", "CodeGenConfig", {**GPT, "n_head": 4, "rotary_dim": 8}),
    Family("cohere", "CohereConfig", {"logit_scale": 0.4}, tied=True),
    Family("cohere2", "Cohere2Config", {**WINDOWS, "logit_scale": 0.4}, tied=True),
    Family("deepseek-v2", "DeepseekV2Config", {**LATENT, **ROUTED, "topk_method": "greedy"}),
    Family("deepseek-v3", "DeepseekV3Config", {**LATENT, **ROUTED, "routed_scaling_factor": 2.5}, quick=True),
    Family("diffllama", "DiffLlamaConfig", MULTI_HEAD),
    Family("doge", "DogeConfig"),
    Family("dots1", "Dots1Config", ROUTED),
    Family("ernie4_5", "Ernie4_5Config"),
    Family("exaone4", "Exaone4Config", WINDOWS),
    Family("falcon", "FalconConfig", {"new_decoder_architecture": False}, tied=True),
    Family("falcon-alibi", "FalconConfig", {"alibi": True, "new_decoder_architecture": False}, tied=True),
    Family("falcon-new", "FalconConfig", {"new_decoder_architecture": True, "num_kv_heads": 1}, tied=True),
    Family("falcon-h1", "FalconH1Config", {
        **MIXER, "mamba_d_ssm": 128, "lm_head_multiplier": 0.25, "embedding_multiplier": 2.0, "key_multiplier": 0.5,
        "attention_out_multiplier": 0.7, "ssm_out_multiplier": 0.6, "ssm_multipliers": [0.5, 0.6, 0.7, 0.8, 0.9],
        "mlp_multipliers": [0.7, 0.8], "head_dim": 32,
    }, quick=True),
    Family("falcon-mamba", "FalconMambaConfig", {"state_size": 8}),
    Family("flex-olmo", "FlexOlmoConfig", {"num_experts": 4, "num_experts_per_tok": 2}),
    Family("gemma", "GemmaConfig", {"head_dim": 32}, tied=True),
    Family("gemma2", "Gemma2Config", {
        "head_dim": 32, "sliding_window": 8, "attn_logit_softcapping": 1.0, "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 16,
    }, tied=True, quick=True),
    Family("gemma3", "Gemma3TextConfig", {**WINDOWS, "head_dim": 32, "query_pre_attn_scalar": 16}, tied=True),
    Family("gemma3-multimodal", "Gemma3Config", {
        "text_config": {**SIZES, **WINDOWS, "vocab_size": 384, "head_dim": 32, "query_pre_attn_scalar": 16},
        "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
                          "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
        "mm_tokens_per_image": 4, "image_token_index": 383, "boi_token_index": 382, "eoi_token_index": 381,
    }, tied=True),
    Family("gemma3n", "Gemma3nTextConfig", {
        "num_hidden_layers": 4, "intermediate_size": [96] * 4, "head_dim": 32, "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": 384, "hidden_size_per_layer_input": 16, "laurel_rank": 8,
        "activation_sparsity_pattern": [0.0] * 4, "final_logit_softcapping": 3.0, "altup_num_inputs": 2,
    }, tied=True),
    Family("gemma4", "Gemma4TextConfig", {
        **WINDOWS, "head_dim": 32, "global_head_dim": 32, "vocab_size_per_layer_input": 384,
        "hidden_size_per_layer_input": 16, "num_kv_shared_layers": 0, "final_logit_softcapping": 3.0,
    }, tied=True),
    Family("glm", "GlmConfig", {"head_dim": 32}),
    Family("glm4", "Glm4Config", {"head_dim": 32}),
    Family("glm4-moe", "Glm4MoeConfig", {**ROUTED, "head_dim": 32}),
    Family("gpt-bigcode", "GPTBigCodeConfig", GPT, tied=True),
    Family("gpt-neo", "GPTNeoConfig", {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]],
                                       "window_size": 8, "intermediate_size": 96}, tied=True),
    Family("gpt-neox", "GPTNeoXConfig"),
    Family("gpt-oss", "GptOssConfig", {**LOCAL_EXPERTS, **WINDOWS, "head_dim": 32, "rope_scaling": None}),
    Family("gpt2", "GPT2Config", GPT, tied=True, quick=True),
    Family("gpt2-scaled-by-layer", "GPT2Config", {**GPT, "scale_attn_by_inverse_layer_idx": True}, tied=True),
    Family("gptj", "GPTJConfig", {**GPT, "rotary_dim": 16}),
    Family("granite", "GraniteConfig", {
        "logits_scaling": 4.0, "attention_multiplier": 0.3, "embedding_multiplier": 3.0, "residual_multiplier": 0.5,
    }, tied=True, quick=True),
    Family("granite-moe", "GraniteMoeConfig", {**LOCAL_EXPERTS, "logits_scaling": 4.0, "residual_multiplier": 0.5}),
    Family("granite-hybrid", "GraniteMoeHybridConfig", {
        **LOCAL_EXPERTS, **MIXER, "layer_types": ["linear_attention", "full_attention"], "logits_scaling": 4.0,
        "shared_intermediate_size": 48,
    }),
    Family("helium", "HeliumConfig", {"head_dim": 32}),
    Family("hunyuan", "HunYuanDenseV1Config", {"head_dim": 32}),
    Family("hyperclovax", "HyperCLOVAXConfig", {
        "logits_scaling": 0.2, "attention_multiplier": 0.3, "embedding_multiplier": 3.0, "residual_multiplier": 0.5,
    }, quick=True),
    Family("jamba", "JambaConfig", {
        "num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 8,
        "use_mamba_kernels": False,
    }),
    Family("jetmoe", "JetMoeConfig", {"kv_channels": 32, "num_local_experts": 4, "num_experts_per_tok": 2}),
    Family("lfm2", "Lfm2Config", {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
           tied=True, quick=True),
    Family("llama", "LlamaConfig", {"attention_bias": True}, quick=True),
    Family("llama-tied", "LlamaConfig", tied=True),
    Family("llama-dynamic", "LlamaConfig",
           {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}}),
    Family("llama-llama3", "LlamaConfig", {"rope_parameters": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16, "rope_theta": 10000.0}}),
    Family("llama-yarn", "LlamaConfig", {"rope_parameters": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}}),
    Family("llama4", "Llama4TextConfig", {
        "num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 96, "head_dim": 32,
        "attention_chunk_size": 8, "no_rope_layers": [1, 0], "layer_types": ["chunked_attention", "full_attention"],
    }),
    Family("mamba", "MambaConfig", {"state_size": 8}, quick=True),
    Family("mamba2", "Mamba2Config", {"state_size": 16, "num_heads": 4, "head_dim": 32, "n_groups": 1,
                                      "chunk_size": 16}),
    Family("minimax", "MiniMaxConfig", {
        **LOCAL_EXPERTS, "layer_types": ["linear_attention", "full_attention"], "block_size": 16, "head_dim": 32,
    }),
    Family("minimax-m2", "MiniMaxM2Config", {**LOCAL_EXPERTS, "head_dim": 32}),
    Family("ministral", "MinistralConfig", {**WINDOWS, "head_dim": 32}),
    Family("mistral", "MistralConfig", {"sliding_window": 8}),
    Family("mixtral", "MixtralConfig", {**LOCAL_EXPERTS, "sliding_window": None}),
    Family("modernbert-decoder", "ModernBertDecoderConfig", {"local_attention": 8}, tied=True),
    Family("mpt", "MptConfig", {
        "d_model": 64, "n_heads": 2, "n_layers": 2, "max_seq_len": LENGTH, "expansion_ratio": 2,
    }, tied=True),
    Family("nanochat", "NanoChatConfig", {"final_logit_softcapping": 3.0}),
    Family("nemotron", "NemotronConfig", {"head_dim": 32}),
    Family("nemotron-h", "NemotronHConfig", {
        "layers_block_type": ["mamba", "attention", "mlp"], "num_hidden_layers": 3, "mamba_num_heads": 4,
        "mamba_head_dim": 32, "ssm_state_size": 16, "n_groups": 1, "chunk_size": 16, "head_dim": 32,
    }),
    Family("olmo", "OlmoConfig", {"clip_qkv": 2.0}),
    Family("olmo2", "Olmo2Config"),
    Family("olmo3", "Olmo3Config", WINDOWS),
    Family("olmoe", "OlmoeConfig", {"num_experts": 4, "num_experts_per_tok": 2}),
    Family("opt", "OPTConfig", {"ffn_dim": 96, "word_embed_proj_dim": 64}, tied=True),
    Family("opt-350", "OPTConfig", {"ffn_dim": 96, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
           tied=True),
    Family("persimmon", "PersimmonConfig"),
    Family("phi", "PhiConfig"),
    Family("phi3", "Phi3Config"),
    Family("phi3-long", "Phi3Config", {
        "original_max_position_embeddings": 16,
        "rope_parameters": {
            "rope_type": "longrope", "short_factor": [1.0] * 16, "long_factor": [1.0 + i for i in range(16)],
            "original_max_position_embeddings": 16, "rope_theta": 10000.0,
        },
    }, quick=True),
    Family("phimoe", "PhimoeConfig", LOCAL_EXPERTS),
    Family("qwen2", "Qwen2Config", tied=True),
    Family("qwen2-windows", "Qwen2Config", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    Family("qwen2-moe", "Qwen2MoeConfig", {**EXPERTS, "shared_expert_intermediate_size": 48}),
    Family("qwen3", "Qwen3Config", {"head_dim": 32}),
    Family("qwen3-moe", "Qwen3MoeConfig", {**EXPERTS, "head_dim": 32}, quick=True),
    Family("qwen3-next", "Qwen3NextConfig", {**EXPERTS, **GATED_DELTA, "shared_expert_intermediate_size": 48}),
    Family("qwen3.5", "Qwen3_5TextConfig", GATED_DELTA),
    Family("recurrent-gemma", "RecurrentGemmaConfig", {
        "layer_types": ["linear_attention", "sliding_attention"], "lru_width": 64, "attention_window_size": 8,
        "logits_soft_cap": 3.0, "num_attention_heads": 2,
    }, tied=True),
    Family("rwkv", "RwkvConfig", {"attention_hidden_size": 64, "context_length": LENGTH}, quick=True),
    Family("seed-oss", "SeedOssConfig", {"head_dim": 32}),
    Family("smollm3", "SmolLM3Config", {"no_rope_layers": [1, 0]}),
    Family("stablelm", "StableLmConfig"),
    Family("starcoder2", "Starcoder2Config", {"sliding_window": None}),
    Family("vaultgemma", "VaultGemmaConfig", {
        "head_dim": 32, "sliding_window": 8, "attn_logit_softcapping": 1.0, "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 16,
    }, tied=True),
    Family("xglm", "XGLMConfig", {"d_model": 64, "num_layers": 2, "attention_heads": 2, "ffn_dim": 96}, tied=True),
    Family("xlstm", "xLSTMConfig", {"num_heads": 2, "num_blocks": 2, "output_logit_soft_cap": 3.0,
                                    "chunk_size": 16, "use_cache": False}),
    Family("youtu", "YoutuConfig", LATENT),
    Family("zamba2", "Zamba2Config", {
        "layers_block_type": ["mamba", "hybrid"], "mamba_d_state": 16, "mamba_ngroups": 1, "n_mamba_heads": 4,
        "mamba_headdim": 32, "chunk_size": 16, "attention_head_dim": 64, "num_mem_blocks": 1, "hybrid_layer_ids": [1],
        "num_key_value_heads": 2, "use_mem_rope": True, "adapter_rank": 8,
    }),
    Family("ernie4_5-moe", "Ernie4_5_MoeConfig", {
        "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, "moe_num_shared_experts": 1,
    }),
    Family("hunyuan-moe", "HunYuanMoEV1Config", {"num_experts": 4, "moe_topk": [2,2], "head_dim": 32}),
    Family("glm4-moe-lite", "Glm4MoeLiteConfig", {**LATENT, **ROUTED, "mlp_layer_types": ["dense", "sparse"]}),
    Family("granite-swa", "GraniteSWAConfig", {
        "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"], "logits_scaling": 4.0,
    }),
    Family("granite-moe-shared", "GraniteMoeSharedConfig", {
        **LOCAL_EXPERTS, "shared_intermediate_size": 48, "logits_scaling": 4.0,
    }),
    Family("jais2", "Jais2Config", {"head_dim": 32}),
    Family("lfm2-moe", "Lfm2MoeConfig", {**EXPERTS, "layer_types": ["conv", "full_attention"], "num_dense_layers": 1}),
    Family("minicpm3", "MiniCPM3Config", {**LATENT}),
    Family("ministral3", "Ministral3Config", {"head_dim": 32}),
    Family("olmo-hybrid", "OlmoHybridConfig", {**GATED_DELTA}),
    Family("zamba", "ZambaConfig", {
        "layers_block_type": ["mamba", "hybrid"], "mamba_d_state": 8, "n_mamba_heads": 2, "num_key_value_heads": 2,
        "attention_head_dim": 64, "mamba_dt_rank": 8, "use_mamba_kernels": False,
    }),
    Family("cwm", "CwmConfig", {
        "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 32,
    }),
    Family("cohere2-moe", "Cohere2MoeConfig", {**EXPERTS, **WINDOWS, "logit_scale": 0.4}),
    Family("solar-open", "SolarOpenConfig", {**ROUTED, "head_dim": 32}),
    Family("mellum", "MellumConfig", {**EXPERTS, **WINDOWS, "head_dim": 32}),
    Family("exaone-moe", "ExaoneMoeConfig", {**EXPERTS, **WINDOWS, "num_shared_experts": 1}),
    Family("qwen3.5-moe", "Qwen3_5MoeTextConfig", {**EXPERTS, **GATED_DELTA, "shared_expert_intermediate_size": 48}),
    Family("dbrx", "DbrxConfig", {
        "d_model": 64, "n_heads": 2, "n_layers": 2, "max_seq_len": LENGTH, "attn_config": {"kv_n_heads": 1,
        "clip_qkv": 2.0, "rope_theta": 10000.0}, "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4,
        "moe_top_k": 2, "hidden_size": 64},
    }),
    Family("gpt-neox-japanese", "GPTNeoXJapaneseConfig", {"intermediate_multiple_size": 2}),
    Family("ctrl", "CTRLConfig", {**GPT, "dff": 96}),
    Family("openai-gpt", "OpenAIGPTConfig",GPT),
    Family("hy-v3", "HYV3Config", {**EXPERTS, "head_dim": 32}),
    Family("hrm-text", "HrmTextConfig", {}),
    Family("deepseek-v32", "DeepseekV32Config", {
        **LATENT, **ROUTED, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 64,
    }),
    Family("aria-text", "AriaTextConfig", {"moe_num_experts": 4, "moe_topk": 2}),
    Family("falcon-rw", "FalconConfig", {
        "alibi": True, "parallel_attn": False, "multi_query": False, "bias": True, "new_decoder_architecture":
        False,
    }, tied=True),
    Family("granite-moe-swa", "GraniteMoeSWAConfig", {
        **LOCAL_EXPERTS, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"],
        "logits_scaling": 4.0,
    }),
    Family("axk1", "AXK1Config", {**LATENT, **ROUTED}),
)  # fmt: skip
BY_NAME = {family.name: family for family in FAMILIES}


@lru_cache(maxsize=1)
def tokenizer() -> PreTrainedTokenizerBase:
    return tiny_tokenizer()


def special_ids() -> dict[str, int]:
    return {f"{name}_token_id": getattr(tokenizer(), f"{name}_token_id") for name in ("eos", "bos", "pad")}


def write(family: Family, folder: Path, *, seed: int = 0) -> Path:
    """A folder with the family's tiny model, as a user brings it."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(family.model_config, dtype=torch.float32)
    spread(model)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@torch.no_grad()
def spread(model: PreTrainedModel) -> None:
    """Random numbers in every parameter, of a size that keeps hidden states alive and makes logits a few nats apart."""
    head = model.get_output_embeddings()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.Embedding):
                parameter.normal_(std=0.4)
            elif parameter.dim() >= 2 and name.endswith(("weight", "proj")) and not isinstance(module, nn.Conv1d):
                parameter.normal_(std=(2.0 if module is head else 1.0) / sqrt(parameter.shape[-1]))
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
