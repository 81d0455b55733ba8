"""Attention functions of our own in transformers' models, in the place of torch's scaled dot products."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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
