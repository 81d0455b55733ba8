"""What is observed of a token, by hand: logits are hidden states under the identity as the output layer."""

from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from obliviate.head import Head
from obliviate.inference import observe as module
from obliviate.inference.observe import continuation_hidden, observe


def identity(vocabulary: int) -> Head:
    return Head(torch.eye(vocabulary))


def test_by_hand() -> None:
    """p = 1/2, 1/4, 1/4: log2 p = -1, -2, -2 with mean -3/2 bits and variance 1/4 bits squared."""
    z_NV = torch.tensor([[log(2.0), 0.0, 0.0]] * 2) + 7
    seen = observe(z_NV, torch.tensor([0, 2]), identity(3), moments=True)
    assert seen.logp_N.tolist() == pytest.approx([-log(2), -log(4)], abs=1e-6)
    assert seen.greedy_N.tolist() == [True, False]
    assert seen.mean_N is not None
    assert seen.variance_N is not None
    assert seen.mean_N.tolist() == pytest.approx([-1.5 * log(2)] * 2, abs=1e-6)
    assert seen.variance_N.tolist() == pytest.approx([0.25 * log(2) ** 2] * 2, abs=1e-6)
    assert seen.rank_N is not None
    assert seen.rank_N.tolist() == [1, 2]  # the last of two equal ones has one before it, not two


def test_moments_are_measured_where_they_are_asked_for() -> None:
    seen = observe(torch.zeros(1, 3), torch.tensor([0]), identity(3))
    assert seen.mean_N is None
    assert seen.variance_N is None
    assert seen.rank_N is None


def test_a_token_of_probability_0_adds_nothing() -> None:
    z_NV = torch.tensor([[0.0, 0.0, float("-inf")]])
    seen = observe(torch.zeros(1, 3), torch.tensor([0]), Head(torch.eye(3), bias_V=z_NV[0]), moments=True)
    assert seen.mean_N is not None
    assert seen.variance_N is not None
    assert seen.mean_N.item() == pytest.approx(-log(2))
    assert seen.variance_N.item() == pytest.approx(0.0, abs=1e-6)


def test_nan_stays_nan() -> None:
    seen = observe(torch.full((1, 3), float("nan")), torch.tensor([0]), identity(3), moments=True)
    assert all(column_N is not None and (column_N.isnan().all() or column_N.dtype == torch.bool) for column_N in seen)


@given(st.integers(0, 9), st.integers(2, 7), st.integers(1, 4))
def test_chunks_do_not_show(positions: int, vocabulary: int, chunk: int) -> None:
    torch.manual_seed(positions)
    z_NV, labels_N = torch.randn(positions, vocabulary), torch.randint(vocabulary, (positions,))
    whole = observe(z_NV, labels_N, identity(vocabulary), moments=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_BYTES", 4 * vocabulary * chunk)
        parts = observe(z_NV, labels_N, identity(vocabulary), moments=True)
    for one_N, other_N in zip(whole, parts, strict=True):
        assert one_N is not None
        assert other_N is not None
        assert torch.allclose(one_N.float(), other_N.float(), atol=1e-6)


def test_the_prompts_last_state_predicts_the_first_token() -> None:
    """Continuations of 3, 1 and 0 tokens: of the first, the prompt's state and those of its first two tokens."""
    last_BD = torch.tensor([[10.0], [20.0], [30.0]])
    hidden_BTD = torch.tensor([[[11.0], [12.0]], [[21.0], [22.0]], [[31.0], [32.0]]])
    hidden_ND = continuation_hidden(last_BD, hidden_BTD, torch.tensor([3, 1, 0]))
    assert hidden_ND.flatten().tolist() == [10, 11, 12, 20]
