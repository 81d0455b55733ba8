"""Batches without their padding: the real tokens of all texts go through the layers as one row, each at its own place.

Only attention must know whose token is whose: there the texts stand apart again, padded to the longest, which costs
little beside the layers' matrix products. No attention kernel of varying lengths is needed, so that it runs everywhere.

Which token is whose comes to our attention function as its mask: of the padded form, [B, 1, T, T], so that its size
says that the tokens are packed, and its diagonal which places hold one. A mask goes unchanged through any transformers
decoder, and through the recomputation of activations.

Shapes: B texts, T tokens of the longest, N real tokens of all, H query heads, G groups of heads, D of a head (or of the
hidden states).
"""

import inspect
from typing import Any

import torch
from torch import Tensor

from obliviate import attention
from obliviate.train.cpu_attention import product_attention

NAME = "obliviate_packed"
ATTENTIONS = {"full_attention", "sliding_attention"}  # the kinds of layers that the mask can be made for


def can_pack(model: Any) -> bool:
    """Whether a transformers model mixes tokens in attention alone, and by our function."""
    kinds = set(getattr(model.config, "layer_types", None) or ())
    placed = "position_ids" in inspect.signature(model.get_decoder().forward).parameters
    ours = model.config._attn_implementation == NAME
    return ours and placed and kinds <= ATTENTIONS and not getattr(model, "_is_stateful", False)


def pack(input_ids_BT: Tensor, real_BT: Tensor) -> dict[str, Tensor]:
    """What a decoder is given: tokens and their places, [1, N], and the mask [B, 1, T, T] of what is looked at.

    `real_BT` is bool; padding is on the right.
    """
    place_T = torch.arange(real_BT.shape[1], device=real_BT.device)
    causal_TT = place_T <= place_T[:, None]
    return {
        "input_ids": input_ids_BT[real_BT][None],
        "position_ids": place_T.expand_as(real_BT)[real_BT][None],
        "attention_mask": causal_TT & real_BT[:, None, None, :],
    }


def unpack(packed_1ND: Tensor, real_BT: Tensor) -> Tensor:
    """[B, T, D]: 0 on padding."""
    padded_BTD = packed_1ND.new_zeros(*real_BT.shape, packed_1ND.shape[-1])
    padded_BTD[real_BT] = packed_1ND[0]
    return padded_BTD


def packed_attention(
    module: torch.nn.Module,
    query_1HND: Tensor,
    key_1GND: Tensor,
    value_1GND: Tensor,
    attention_mask: Tensor | None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """[1, N, H, D]. Tokens that are not packed are attended to as always, with masks that transformers has made."""
    tokens = key_1GND.shape[2]
    if attention_mask is None or attention_mask.shape[-1] == tokens:
        return product_attention(module, query_1HND, key_1GND, value_1GND, attention_mask, **others)
    rows, length = attention_mask.shape[0], attention_mask.shape[-1]
    # Of a static size, so that a GPU need not be waited for.
    real_BT = attention_mask[:, 0].diagonal(dim1=-2, dim2=-1)
    place_N = torch.nonzero_static(real_BT.flatten(), size=tokens)[:, 0]
    if sliding_window is not None and length > sliding_window:
        place_T = torch.arange(length, device=place_N.device)
        attention_mask = attention_mask & (place_T[:, None] - place_T < sliding_window)

    def apart(packed_1HND: Tensor) -> Tensor:
        """[B, H, T, D]"""
        of_token_NHD = packed_1HND[0].transpose(0, 1)
        padded = of_token_NHD.new_zeros(rows * length, *of_token_NHD.shape[1:]).index_copy(0, place_N, of_token_NHD)
        return padded.view(rows, length, *of_token_NHD.shape[1:]).transpose(1, 2)

    out_BTHD, _ = product_attention(
        module, apart(query_1HND), apart(key_1GND), apart(value_1GND), attention_mask, **others
    )
    return out_BTHD.flatten(0, 1)[place_N][None], None


attention.register(NAME, packed_attention)
