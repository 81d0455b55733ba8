"""Attention for training in bfloat16 on CPUs, as three plain products; everything else goes to transformers' own.

torch's fused kernel saves memory, but on CPUs its backward pass in bfloat16 is slow: of a layer of SmolLM2-135M (nine
heads in three groups, 8 texts of 113 tokens, two cores) forward and backward take 15.6 ms with it and 2.9 ms here.
Scores are rounded to bfloat16 before the softmax, as in transformers' "eager" attention. They are kept for the backward
pass, so long texts, of which they would fill the memory, stay with the fused kernel.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

LONGEST = 512  # tokens


def product_attention(
    module: torch.nn.Module,
    query_BHTD: Tensor,
    key_BGTD: Tensor,
    value_BGTD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """[B, T, H, D]. B rows, H query heads in G groups, T tokens, D of a head. The mask is True where one may look."""
    rows, heads, length, width = query_BHTD.shape
    groups = key_BGTD.shape[1]
    causal = attention_mask is None and getattr(module, "is_causal", True) and others.get("is_causal") is not False
    masked = attention_mask is not None and attention_mask.dtype == torch.bool
    biased = dropout > 0 or others.get("position_bias") is not None or others.get("cache") is not None
    short = 1 < length == key_BGTD.shape[2] <= LONGEST
    here = query_BHTD.device.type == "cpu" and query_BHTD.dtype == torch.bfloat16
    if not here or biased or not short or not (causal or masked):
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query_BHTD, key_BGTD, value_BGTD, attention_mask, scaling=scaling, dropout=dropout, **others
        )
    if attention_mask is None:
        attention_mask = torch.ones(length, length, dtype=torch.bool).tril()
    # The heads of a group are rows of one matrix: they share its keys and values, which need no copies.
    query = query_BHTD.reshape(rows * groups, -1, width) * (width**-0.5 if scaling is None else scaling)
    scores = (query @ key_BGTD.reshape(rows * groups, length, width).mT).view(rows, heads, length, length)
    weights = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min).softmax(-1)
    out = weights.view(rows * groups, -1, length) @ value_BGTD.reshape(rows * groups, length, width)
    return out.view(rows, heads, length, width).transpose(1, 2), None
