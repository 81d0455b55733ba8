"""Decoding with the heads of a group in one product, against transformers' own attention, which copies keys."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from obliviate.attention import use
from obliviate.inference.grouped_attention import NAME, grouped_attention

ROWS, HEADS, GROUPS, TOKENS, WIDTH = 3, 6, 2, 7, 8


def attention(new: int, *, masked: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours and transformers', [B, T, H, D]. Row i has i tokens of padding on the left."""
    torch.manual_seed(0)
    module = torch.nn.Module()
    module.num_key_value_groups = HEADS // GROUPS
    query = torch.randn(ROWS, HEADS, new, WIDTH)
    key, value = torch.randn(2, ROWS, GROUPS, TOKENS, WIDTH)
    mask = None
    if masked:
        place = torch.arange(TOKENS)
        real = place >= torch.arange(ROWS)[:, None, None, None]
        mask = real & (place <= torch.arange(TOKENS - new, TOKENS)[:, None])
    ours, _ = grouped_attention(module, query, key, value, mask, scaling=0.3)
    theirs, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
    return ours, theirs


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("new", [1, 4])
def test_the_same_as_with_copies(new: int, masked: bool) -> None:
    ours, theirs = attention(new, masked=masked)
    assert ours.shape == (ROWS, new, HEADS, WIDTH)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_one_token_by_hand() -> None:
    """One group of two heads, two tokens: scores 0 and ln 3 weigh the values 4 and 8 as 1/4 and 3/4."""
    query = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    key = torch.tensor([1.0, 3.0]).log().reshape(1, 1, 2, 1)
    value = torch.tensor([4.0, 8.0]).reshape(1, 1, 2, 1)
    out, _ = grouped_attention(torch.nn.Module(), query, key, value, None, scaling=1.0)
    assert out.flatten().tolist() == pytest.approx([7.0, 6.0])  # the second head attends to both alike


def test_only_scaled_dot_products_are_exchanged() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8, num_key_value_heads=2, **sizes))
    model.set_attn_implementation("eager")
    use(model, NAME)
    assert model.config._attn_implementation == "eager"
    model.set_attn_implementation("sdpa")
    use(model, NAME)
    assert model.config._attn_implementation == NAME
