"""Attention in plain products against torch's fused kernel: the same values and gradients, up to bfloat16."""

import pytest
import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from obliviate.train import cpu_attention
from obliviate.train.cpu_attention import product_attention

ROWS, HEADS, GROUPS, TOKENS, WIDTH = 3, 6, 2, 9, 16
MODULE = torch.nn.Module()
MODULE.num_key_value_groups = HEADS // GROUPS


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    query = torch.randn(ROWS, HEADS, TOKENS, WIDTH)
    key, value = torch.randn(2, ROWS, GROUPS, TOKENS, WIDTH)
    return tuple(each.to(torch.bfloat16).to(dtype).requires_grad_() for each in (query, key, value))  # type: ignore[return-value]


def mask() -> Tensor:
    """Causal; of row i the last i tokens are padding."""
    place = torch.arange(TOKENS)
    real = place < TOKENS - torch.arange(ROWS)[:, None, None, None]
    return real & (place <= place[:, None])


@pytest.mark.parametrize("masked", [True, False])
def test_values_and_gradients_are_those_of_the_fused_kernel(masked: bool) -> None:
    """Those of the kernel in float32: eight bits of each number are right, and errors of single steps add up."""
    given = mask() if masked else None
    ours, exact = inputs(torch.bfloat16), inputs(torch.float32)
    out, _ = product_attention(MODULE, *ours, given, scaling=0.3)
    expected, _ = sdpa_attention_forward(MODULE, *exact, given, scaling=0.3)
    assert out.shape == (ROWS, TOKENS, HEADS, WIDTH)
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.02)
    direction = torch.randn_like(expected)
    out.backward(direction.to(torch.bfloat16))
    expected.backward(direction)
    for mine, theirs in zip(ours, exact, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert (mine.grad.float() - theirs.grad).norm() < 0.01 * theirs.grad.norm()


def test_two_tokens_by_hand() -> None:
    """Scores 0 and ln 3 weigh the values 4 and 8 as 1/4 and 3/4; the first token sees itself alone."""
    query = torch.ones(1, 1, 2, 1, dtype=torch.bfloat16)
    key = torch.tensor([1.0, 3.0]).log().reshape(1, 1, 2, 1).bfloat16()
    value = torch.tensor([4.0, 8.0]).reshape(1, 1, 2, 1).bfloat16()
    out, _ = product_attention(torch.nn.Module(), query, key, value, None, scaling=1.0)
    assert out.flatten().tolist() == pytest.approx([4.0, 7.0], rel=2**-8)


def test_values_may_be_narrower_than_keys() -> None:
    """Multi-head latent attention."""
    query, key, value = (each.detach() for each in inputs(torch.bfloat16))
    narrow = value[..., :5].contiguous()
    out, _ = product_attention(MODULE, query, key, narrow, None, scaling=0.3)
    whole, _ = product_attention(MODULE, query, key, value, None, scaling=0.3)
    assert torch.equal(out, whole[..., :5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_capped_scores_by_hand(dtype: torch.dtype) -> None:
    """Scores 0 and 1.5 under a cap of 0.5: 0.5 tanh(3) = 0.498, so the values weigh 1/(1 + e^.498) = .378 and .622."""
    query = torch.ones(1, 1, 2, 1, dtype=dtype)
    key = torch.tensor([0.0, 1.5]).reshape(1, 1, 2, 1).to(dtype)
    value = torch.tensor([4.0, 8.0]).reshape(1, 1, 2, 1).to(dtype)
    out, _ = product_attention(torch.nn.Module(), query, key, value, None, scaling=1.0, softcap=0.5)
    assert out.flatten().tolist() == pytest.approx([4.0, 4 * 0.3781 + 8 * 0.6219], rel=2**-7)


@pytest.mark.parametrize("longest", [TOKENS - 1, TOKENS])
def test_long_texts_and_float32_are_left_to_the_fused_kernel(monkeypatch: pytest.MonkeyPatch, longest: int) -> None:
    calls: list[torch.dtype] = []

    def fused(module: torch.nn.Module, query: Tensor, *others: object, **more: object) -> tuple[Tensor, None]:
        calls.append(query.dtype)
        return query, None

    monkeypatch.setattr(cpu_attention, "sdpa_attention_forward", fused)
    monkeypatch.setattr(cpu_attention, "LONGEST", longest)
    for dtype in (torch.float32, torch.bfloat16):
        product_attention(MODULE, *inputs(dtype), None, scaling=0.3)
    assert calls == ([torch.float32, torch.bfloat16] if longest < TOKENS else [torch.float32])
