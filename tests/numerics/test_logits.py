"""Statistics of logits against those of hidden states and head: values, and gradients in the hidden states."""

from math import inf, log

import pytest
import torch

from obliviate.blockwise import score_positions, wanted_hidden
from obliviate.head import Head
from obliviate.hf import token_scores
from obliviate.logits import score_logits
from obliviate.methods import GA, KL, Pass
from obliviate.scoring import Activation, Distilled, Generic, Stat, TokenStat, needs_reference

B, T, D, V = 3, 6, 5, 11
STATS: list[TokenStat] = [
    *Stat,
    Distilled("reference", 2.5),
    Distilled("self", inf),
    Generic(5.0),
    Distilled("reference", 1.0, 3),
]


@pytest.mark.parametrize("stats", [*({stat} for stat in STATS), set(STATS)], ids=[*map(str, STATS), "all"])
def test_logits_give_what_hidden_states_and_head_give(stats: set[TokenStat]) -> None:
    torch.manual_seed(0)
    hidden, other = torch.randn(B, T, D, requires_grad=True), torch.randn(B, T, 4)
    head, other_head = Head(torch.randn(V, D), torch.randn(V), softcap=3.0), Head(torch.randn(V, 4))
    ids, wanted = torch.randint(0, V, (B, T)), torch.rand(B, T) < 0.6
    wanted[:, 0] = False
    of_other = wanted_hidden(other, wanted)
    found = score_logits(head.logits(hidden), ids, wanted, stats, other_head.logits(of_other))
    expected = score_positions(hidden, ids, wanted, head, stats, (of_other, other_head))
    upstream = {stat: torch.randn(B, T) for stat in sorted(stats, key=str)}
    gradients = []
    for values in (found, expected):
        total = torch.stack([(values[stat] * upstream[stat]).sum() for stat in stats]).sum()
        gradients.append(torch.autograd.grad(total, hidden)[0])
    for stat in stats:
        torch.testing.assert_close(found[stat], expected[stat], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_labels_are_not_shifted_and_minus_100_is_no_answer() -> None:
    """Four tokens; the logits of token 0 are certain of token 1's id, those of token 1 are even."""
    logits = torch.zeros(1, 4, 2)
    logits[0, 0] = torch.tensor([0.0, 50.0])
    found = token_scores(logits, torch.tensor([[1, 1, 0, -100]]), {Stat.LOGP})
    assert found.answer_BT.tolist() == [[False, True, True, False]]
    assert found.logp_BT[0].tolist() == pytest.approx([0, 0, -log(2), 0])
    assert float(found.logp_B) == pytest.approx(-log(2))


def test_a_loss_of_logits_and_a_frozen_models_logits() -> None:
    """Two tokens of one text, the first of the prompt: KL(q||p) of (3/4, 1/4) to even is 3/4 log 3/2 - 1/4 log 2."""
    logits = torch.zeros(1, 3, 2, requires_grad=True)
    reference = torch.tensor([[[log(3), 0.0], [0.0, 0.0], [0.0, 0.0]]])
    read = torch.tensor([[1, 1, 1]])
    retain = token_scores(logits, torch.tensor([[-100, -100, 0]]), {Stat.REFERENCE_KL, Stat.LOGP}, reference, read)
    loss = KL().loss({Pass.RETAIN: retain})
    assert float(loss.count) == 2
    assert float(loss.sum.detach()) == pytest.approx(0.75 * log(1.5) - 0.25 * log(2))
    assert retain.logp_BT[0].tolist() == pytest.approx([0, 0, -log(2)])
    loss.sum.backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].tolist() == pytest.approx([0.5 - 0.75, 0.5 - 0.25])
    assert float(GA().loss({Pass.FORGET: retain}).count) == 1


@pytest.mark.parametrize("stat", [stat for stat in STATS if needs_reference(stat)], ids=str)
def test_a_comparison_without_a_reference_says_so(stat: TokenStat) -> None:
    with pytest.raises(ValueError, match=f"^{stat}: needs the reference model's logits$"):
        score_logits(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[False, True]]), {stat})


def test_hidden_states_cannot_be_told_from_logits() -> None:
    with pytest.raises(ValueError, match=r"^activation_7: needs hidden states, and here are logits$"):
        token_scores(torch.zeros(1, 2, 3), torch.tensor([[-100, 1]]), {Stat.LOGP, Activation(7)})
