"""The chunked statistics against the plain formulas on whole logits: values, gradients, limits, invariances."""

from math import log

import pytest
import torch
from torch import Tensor

from obliviate import scoring
from obliviate.scoring import Head, Stat, greedy_matches, score_positions, token_statistics

N, D, V = 7, 5, 11


def plain(hidden_ND: Tensor, labels_N: Tensor, head: Head, reference: tuple[Tensor, Head]) -> dict[Stat, Tensor]:
    """By definition, with every logit held."""
    logp_NV = head.logits(hidden_ND).log_softmax(-1)
    q_NV = reference[1].logits(reference[0]).log_softmax(-1)
    return {
        Stat.LOGP: logp_NV.gather(-1, labels_N[:, None])[:, 0],
        Stat.ENTROPY: -(logp_NV.exp() * logp_NV).sum(-1),
        Stat.UNIFORM_KL: -log(V) - logp_NV.mean(-1),
        Stat.REFERENCE_KL: (q_NV.exp() * (q_NV - logp_NV)).sum(-1),
    }


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK_BYTES", 4 * V * 3)  # three rows a chunk: the last is partial


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("stats", [{stat} for stat in Stat] + [set(Stat)], ids=lambda s: "+".join(sorted(s)))
def test_values_and_gradients_equal_the_plain_formulas(stats: set[Stat], softcap: float | None) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(N, D, requires_grad=True)
    weight = torch.randn(V, D, requires_grad=True)
    bias = torch.randn(V, requires_grad=True)
    labels = torch.randint(0, V, (N,))
    head = Head(weight, bias, scale=0.7, softcap=softcap)
    reference = (torch.randn(N, 4), Head(torch.randn(V, 4)))
    upstream = {stat: torch.randn(N) for stat in Stat}
    found = token_statistics(hidden, labels, head, stats, reference)
    expected = plain(hidden, labels, head, reference)
    for stat in stats:
        torch.testing.assert_close(found[stat], expected[stat], rtol=1e-5, atol=1e-5)
    gradients = [
        torch.autograd.grad(
            torch.stack([(values[s] * upstream[s]).sum() for s in sorted(stats)]).sum(), [hidden, weight, bias]
        )
        for values in (found, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_limits_of_a_uniform_and_of_a_certain_model() -> None:
    labels = torch.zeros(1, dtype=torch.long)
    uniform = token_statistics(
        torch.zeros(1, D), labels, Head(torch.randn(V, D)), {Stat.LOGP, Stat.ENTROPY, Stat.UNIFORM_KL}
    )
    assert float(uniform[Stat.LOGP]) == pytest.approx(-log(V))
    assert float(uniform[Stat.ENTROPY]) == pytest.approx(log(V))
    assert float(uniform[Stat.UNIFORM_KL]) == pytest.approx(0, abs=1e-6)
    certain = Head(torch.eye(V)[:, :1] * 50)  # logit 50 for token 0, 0 for the others
    sure = token_statistics(torch.ones(1, 1), labels, certain, {Stat.ENTROPY, Stat.UNIFORM_KL})
    assert float(sure[Stat.ENTROPY]) == pytest.approx(0, abs=1e-6)
    # logsumexp = 50, mean = 50/11
    assert float(sure[Stat.UNIFORM_KL]) == pytest.approx(50 - 50 / V - log(V), rel=1e-5)


def test_kl_to_itself_vanishes_with_its_gradient() -> None:
    hidden, head = torch.randn(N, D, requires_grad=True), Head(torch.randn(V, D))
    labels = torch.zeros(N, dtype=torch.long)
    kl = token_statistics(hidden, labels, head, {Stat.REFERENCE_KL}, (hidden.detach(), head))[Stat.REFERENCE_KL]
    kl.sum().backward()
    assert hidden.grad is not None
    assert kl.abs().max() < 1e-5
    assert hidden.grad.abs().max() < 1e-5


def test_the_shift_token_t_is_scored_by_the_hidden_state_before_it() -> None:
    hidden_BTD = torch.eye(3)[None]  # position t has hidden state e_t
    head = Head(torch.diag(torch.tensor([1.0, 2.0, 3.0])))
    ids = torch.tensor([[2, 0, 1]])
    wanted = torch.tensor([[False, True, True]])
    logp_BT = score_positions(hidden_BTD, ids, wanted, head, {Stat.LOGP})[Stat.LOGP]
    # token 0 after e_0: logits (1, 0, 0); token 1 after e_1: logits (0, 2, 0)
    first = torch.tensor([1.0, 0, 0]).log_softmax(0)[0]
    second = torch.tensor([0, 2.0, 0]).log_softmax(0)[1]
    torch.testing.assert_close(logp_BT, torch.stack([torch.tensor(0.0), first, second])[None])


def test_greedy_matches_is_argmax_equality() -> None:
    head = Head(torch.eye(3))
    hidden = torch.tensor([[0.0, 1, 0], [5, 0, 0]])
    assert greedy_matches(hidden, torch.tensor([1, 2]), head).tolist() == [True, False]


def test_reference_kl_without_a_reference_says_so() -> None:
    with pytest.raises(ValueError, match="needs the reference"):
        token_statistics(
            torch.randn(N, D), torch.zeros(N, dtype=torch.long), Head(torch.randn(V, D)), {Stat.REFERENCE_KL}
        )


def test_nothing_wanted_is_nothing_scored() -> None:
    none = score_positions(
        torch.randn(2, 3, D),
        torch.zeros(2, 3, dtype=torch.long),
        torch.zeros(2, 3, dtype=torch.bool),
        Head(torch.randn(V, D)),
        {Stat.LOGP},
    )
    assert none[Stat.LOGP].tolist() == [[0, 0, 0], [0, 0, 0]]
