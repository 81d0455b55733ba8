"""Attention functions of our own in transformers' models, in the place of torch's scaled dot products.

Shapes: B rows, H query heads in G groups, T queries, S keys, D of a head, E of a value.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def register(name: str, function: Callable[..., Any]) -> None:
    """`function` takes what transformers' own functions take, with the masks of scaled dot products."""
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, sdpa_mask)


def use(model: "PreTrainedModel", name: str) -> None:
    """Of effect on models that attend by torch's scaled dot products; others are left as they are."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(name)


def products(
    query_BHTD: Tensor,
    key_BGSD: Tensor,
    value_BGSE: Tensor,
    mask_B1TS: Tensor | None,
    scaling: float | None,
    softcap: float | None = None,
) -> Tensor:
    """[B, T, H, E], by plain products. The mask is True where one may look; None: at what came before (T = S).

    `softcap` bounds the scores (Gemma 2), which torch's fused kernels have no argument for.
    """
    rows, heads, new, width = query_BHTD.shape
    groups, past = key_BGSD.shape[1:3]
    if mask_B1TS is None:
        mask_B1TS = torch.ones(new, past, dtype=torch.bool, device=query_BHTD.device).tril(past - new)
    # The heads of a group are rows of one matrix: they share its keys and values, which need no copies.
    query = query_BHTD.reshape(rows * groups, -1, width) * (width**-0.5 if scaling is None else scaling)
    scores = (query @ key_BGSD.reshape(rows * groups, past, width).mT).view(rows, heads, new, past)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = scores.masked_fill(~mask_B1TS, torch.finfo(scores.dtype).min).softmax(-1)
    out = weights.view(rows * groups, -1, past) @ value_BGSE.reshape(rows * groups, past, -1)
    return out.view(rows, heads, new, -1).transpose(1, 2).contiguous()  # some families view it
