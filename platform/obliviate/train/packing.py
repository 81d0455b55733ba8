"""Batches without padding and without repetition: the real tokens of all texts go through the layers as one row, each
at its own place, and where texts begin alike, what they share goes once.

A token's hidden state follows from the tokens up to it alone. So the first text that has a token after the same
beginning owns it, and the others take it over from there: chat templates and system prompts, and questions that are
asked with several answers. Their gradients add up; dropout drops the same of what is shared.

Only attention must know whose token is whose: there the texts stand apart again, padded to the longest, which costs
little beside the layers' matrix products. No attention kernel of varying lengths is needed, so that it runs everywhere.
What it must know comes to our attention function as its mask, of integers, where other masks are of booleans. A mask
goes unchanged through any transformers decoder, and through the recomputation of activations.

Shapes: B texts, T tokens of the longest, N owned tokens of all, H query heads, G groups of heads, D of a head (or of
the hidden states).
"""

import inspect
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from obliviate import attention
from obliviate.decoder import decoder_of, keeps_state
from obliviate.train.cpu_attention import product_attention

NAME = "obliviate_packed"
OWN_MASKS = {"doge"}  # families that make masks of their own from what they are given


def can_pack(model: Any) -> bool:
    """Whether a transformers model mixes tokens in attention alone, and by our function."""
    placed = "position_ids" in inspect.signature(decoder_of(model).forward).parameters
    ours = model.config._attn_implementation == NAME and model.config.model_type not in OWN_MASKS
    return ours and placed and not keeps_state(model)


class Layout(NamedTuple):
    """Which of the N packed tokens stands at each place of the padded texts."""

    index_BT: Tensor  # int64; any of them on padding
    real_BT: Tensor  # bool
    owned_BT: Tensor  # bool: the places that the packed tokens were taken from, in their order

    @classmethod
    def of(cls, mask_B12T: Tensor) -> "Layout":
        """As `pack` wrote it into the mask."""
        index_BT, owned_BT = mask_B12T[:, 0].unbind(1)
        return cls(index_BT.clamp(min=0), index_BT >= 0, owned_BT.bool())

    def spread(self, packed_NX: Tensor) -> Tensor:
        """[B, T, X], in memory of its own; gradients of a token that texts share add up, always in the same order.

        In float32: in bfloat16 the sum over many texts would lose the small ones.
        """
        return F.embedding(self.index_BT, packed_NX.float()).to(packed_NX.dtype)


def pack(input_ids_BT: Tensor, real_BT: Tensor) -> dict[str, Tensor]:
    """What a decoder is given: tokens and their places, [1, N], and the mask [B, 1, 2, T].

    `real_BT` is bool; padding is on the right. The mask's first row is the layout's index, -1 on padding; its second is
    1 at owned places.
    """
    place_T = torch.arange(real_BT.shape[1], device=real_BT.device)
    text_B = torch.arange(len(real_BT), device=real_BT.device)
    same_BBT = (input_ids_BT[:, None] == input_ids_BT) & real_BT[:, None] & real_BT
    so_far_BBT = same_BBT.cumprod(-1, dtype=torch.int8)  # 1 where two texts agree from their beginning up to a place
    owner_BT = so_far_BBT.argmax(1)  # of equals the first
    owned_BT = real_BT & (owner_BT == text_B[:, None])
    index_BT = (owned_BT.flatten().cumsum(0).view_as(owned_BT) - 1).gather(0, owner_BT)
    return {
        "input_ids": input_ids_BT[owned_BT][None],
        "position_ids": place_T.expand_as(owned_BT)[owned_BT][None],
        "attention_mask": torch.stack([index_BT.masked_fill(~real_BT, -1), owned_BT.long()], 1)[:, None],
    }


def unpack(packed_1ND: Tensor, mask_B12T: Tensor) -> Tensor:
    """[B, T, D]: 0 on padding."""
    layout = Layout.of(mask_B12T)
    return layout.spread(packed_1ND[0]).masked_fill(~layout.real_BT[..., None], 0)


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
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return product_attention(module, query_1HND, key_1GND, value_1GND, attention_mask, **others)
    layout = Layout.of(attention_mask)
    place_T = torch.arange(layout.real_BT.shape[1], device=attention_mask.device)
    behind_TT = place_T[:, None] - place_T
    seen_TT = behind_TT >= 0 if sliding_window is None else (behind_TT >= 0) & (behind_TT < sliding_window)

    def apart(packed_1HND: Tensor) -> Tensor:
        """[B, H, T, D]"""
        spread_BTX = layout.spread(packed_1HND[0].transpose(0, 1).flatten(1))
        return spread_BTX.view(*layout.real_BT.shape, *packed_1HND.shape[1::2]).transpose(1, 2)

    mask_B1TT = seen_TT & layout.real_BT[:, None, None, :]
    out_BTHD, _ = product_attention(module, apart(query_1HND), apart(key_1GND), apart(value_1GND), mask_B1TT, **others)
    # Of a static size, so that a GPU need not be waited for.
    owned_N = torch.nonzero_static(layout.owned_BT.flatten(), size=query_1HND.shape[2])[:, 0]
    heads_width = out_BTHD.shape[2:]
    return F.embedding(owned_N, out_BTHD.flatten(0, 1).flatten(1)).unflatten(-1, heads_width)[None], None


attention.register(NAME, packed_attention)
