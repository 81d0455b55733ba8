"""Attention for training in bfloat16 on CPUs, as three plain products; everything else goes to transformers' own.

torch's fused kernel saves memory, but on CPUs its backward pass in bfloat16 is slow: of a layer of SmolLM2-135M (nine
heads in three groups, 8 texts of 113 tokens, two cores) forward and backward take 15.6 ms with it and 2.9 ms here.
Scores are rounded to bfloat16 before the softmax, as in transformers' "eager" attention. They are kept for the backward
pass, so long texts, of which they would fill the memory, stay with the fused kernel. Scores that are capped, which no
fused kernel does, are made here everywhere.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from obliviate.attention import products

LONGEST = 512  # tokens


def product_attention(
    module: torch.nn.Module,
    query_BHTD: Tensor,
    key_BGTD: Tensor,
    value_BGTE: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """[B, T, H, E]. B rows, H query heads in G groups, T tokens, D of a head, E of a value. The mask is True where one
    may look."""
    length = query_BHTD.shape[2]
    causal = attention_mask is None and getattr(module, "is_causal", True) and others.get("is_causal") is not False
    masked = attention_mask is not None and attention_mask.dtype == torch.bool
    biased = dropout > 0 or others.get("position_bias") is not None or others.get("cache") is not None
    short = 1 < length == key_BGTD.shape[2] <= LONGEST
    here = query_BHTD.device.type == "cpu" and query_BHTD.dtype == torch.bfloat16
    if softcap is None and (not here or biased or not short or not (causal or masked)):
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query_BHTD, key_BGTD, value_BGTE, attention_mask, scaling=scaling, dropout=dropout, **others
        )
    return products(query_BHTD, key_BGTD, value_BGTE, attention_mask, scaling, softcap), None
