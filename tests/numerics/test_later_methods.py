"""The losses of later methods against values worked out by hand, and the limits that their formulas have."""

from math import exp, log, tanh
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_methods import FORGET, REFERENCE, REFUSAL, gradient, log_sigmoid, logps, mean, scores_of

from obliviate.blockwise import token_statistics
from obliviate.config import UnlearnRun, build
from obliviate.errors import UserError
from obliviate.head import Head
from obliviate.methods import (
    EUL,
    FLAT,
    ICKU,
    IHL,
    JS,
    NPO,
    WHP,
    Disassociation,
    Divergence,
    JensUn,
    Marked,
    Pass,
    Positions,
    TaskVector,
    Unilogit,
    expand,
)
from obliviate.scoring import Generic, Stat, TokenScores


def test_a_task_vector_is_the_cross_entropy_of_what_is_to_go() -> None:
    assert mean(TaskVector(scale=3), {Pass.FORGET: FORGET}) == pytest.approx((1 + 2 + 4) / 3)


def test_disassociation_is_the_cross_entropy_of_the_borrowed_answers() -> None:
    assert mean(Disassociation(), {Pass.FORGET_SHUFFLED: REFUSAL}) == pytest.approx(2.5)


def test_icku_and_marked_are_cross_entropies_behind_the_mark() -> None:
    """Two texts of the refusals' tokens at -2, -2, -3, -3; of the retain answers at -1, -2, -4. Nothing else counts."""
    assert mean(ICKU(), {Pass.FORGET_MARKED_IDK: REFUSAL, Pass.FORGET: FORGET}) == pytest.approx(2.5)
    assert mean(Marked(), {Pass.RETAIN_MARKED: FORGET, Pass.RETAIN: REFUSAL}) == pytest.approx((1 + 2 + 4) / 3)
    assert gradient(ICKU(), Pass.FORGET_MARKED_IDK, [[0.0, -9.0]], [[0, 1]]) == [[0, -1]]
    assert gradient(Marked(), Pass.RETAIN_MARKED, [[0.0, -9.0]], [[0, 1]]) == [[0, -1]]


def test_whp_is_the_cross_entropy_of_the_generic_tokens() -> None:
    scores = {Pass.FORGET: scores_of(Generic(2.0), [[-9.0, -1.0, -4.0]], [[0, 1, 1]])}
    assert mean(WHP(alpha=2.0), scores) == pytest.approx(2.5)
    assert WHP(alpha=2.0).needs == {Pass.FORGET: {Generic(2.0): Positions.ANSWER}}


def test_divergence_is_minus_kl_and_stops_at_its_bound() -> None:
    scores = {Pass.RETAIN: scores_of(Stat.REFERENCE_KL, [[0, 1.0, 4.0]], [[0, 0, 1]])}
    assert mean(Divergence(), scores) == pytest.approx(-2.5)
    assert mean(Divergence(bound=2), scores) == pytest.approx(-1.5)
    assert mean(Divergence(positions=Positions.ANSWER), scores) == pytest.approx(-4)


def test_short_forms() -> None:
    assert [each["type"] for each in expand("sku")["regularizers"]] == ["disassociation", "divergence"]
    assert [each["type"] for each in expand("jensun")["regularizers"]] == ["js"]
    assert [each["type"] for each in expand("eul")["regularizers"]] == ["kl", "gd"]
    assert [each["type"] for each in expand("icku")["regularizers"]] == ["marked"]


@pytest.mark.parametrize(
    ("method", "lora", "message"),
    [
        ("npo+divergence", None, r"divergence beside npo would only destroy .* take kl"),
        ("task_vector", {"merge": False}, r"model\.lora\.merge: false keeps an adapter.* set merge: true"),
    ],
)
def test_what_negation_cannot_work_with(method: str, lora: dict[str, Any] | None, message: str) -> None:
    values = {"model": {"source": "x", "lora": lora}, "data": {"type": "fictitious"}, "method": method}
    with pytest.raises(UserError, match=message):
        build(UnlearnRun, values, where="test")


def test_flat_by_hand() -> None:
    """Probabilities are means over tokens: of the refusals e^-2 and e^-3, of the answers (e^-1 + e^-2) / 2 and e^-4."""
    scores = {Pass.FORGET: FORGET, Pass.FORGET_IDK: REFUSAL}
    refusals, answers = (exp(-2), exp(-3)), ((exp(-1) + exp(-2)) / 2, exp(-4))
    pairs = list(zip(refusals, answers, strict=True))
    assert mean(FLAT(), scores) == pytest.approx(sum(exp(a - 1) - r for r, a in pairs) / 2)
    total_variation = sum(tanh(a) / 2 - tanh(r) / 2 for r, a in pairs) / 2
    assert mean(FLAT(divergence="total_variation"), scores) == pytest.approx(total_variation)
    pearson = sum(a * a / 4 + a - r for r, a in pairs) / 2
    assert mean(FLAT(divergence="pearson"), scores) == pytest.approx(pearson)
    # g(v) = log(2 / (1 + e^-v)), f*(u) = -log(2 - e^u)
    jensen_shannon = sum(-log(2 - 2 / (1 + exp(-a))) - log(2 / (1 + exp(-r))) for r, a in pairs) / 2
    assert mean(FLAT(divergence="jensen_shannon"), scores) == pytest.approx(jensen_shannon)


@given(logp=st.floats(-30, 0))
def test_jensun_is_the_divergence_from_certainty(logp: float) -> None:
    """By definition, over the true token and all others together: with M the mixture of e_y and (p, 1 - p)."""
    p = exp(logp)
    own = p * log(2 * p / (1 + p)) + (1 - p) * log(2)
    certain = log(2 / (1 + p))
    found = mean(JensUn(), {Pass.FORGET_IDK: logps([[0, logp]], [[0, 1]])})
    assert found == pytest.approx((own + certain) / 2, abs=1e-9)
    assert -1e-12 <= found <= log(2) + 1e-12


def test_jensuns_pull_fades_where_the_refusal_is_certain_and_where_it_is_hopeless() -> None:
    """d/d log p = p log(p / (1 + p)) / 2: -log(2) / 2 at p = 1, nothing at p = 0."""
    (found,) = gradient(JensUn(), Pass.FORGET_IDK, [[0.0, -1.0, -50.0]], [[1, 1, 1]])
    assert found == pytest.approx([-log(2) / 2, exp(-1) * log(exp(-1) / (1 + exp(-1))) / 2, 0], abs=1e-9)


def test_js_means_over_the_answer() -> None:
    assert mean(JS(), {Pass.RETAIN: scores_of(Stat.REFERENCE_JS, [[0, 9, 2], [0, 0, 4]], [[0, 0, 1], [0, 0, 1]])}) == 3


def test_js_of_a_model_with_itself_is_nothing_and_of_disjoint_ones_log_two() -> None:
    label, sure = torch.zeros(1, dtype=torch.long), Head(torch.tensor([[60.0], [0.0]]))
    other = Head(torch.tensor([[0.0], [60.0]]))
    for reference, expected in ((sure, 0.0), (other, log(2))):
        found = token_statistics(torch.ones(1, 1), label, sure, {Stat.REFERENCE_JS}, (torch.ones(1, 1), reference))
        assert float(found[Stat.REFERENCE_JS]) == pytest.approx(expected, abs=1e-6)


def test_ihl_by_hand() -> None:
    answer = torch.tensor([[False, True, True]])
    stats = {
        Stat.LOGP: torch.tensor([[-9.0, log(0.7), log(0.1)]]),
        Stat.RIVAL: torch.tensor([[0.0, log(0.2), log(0.6)]]),
    }
    assert mean(IHL(), {Pass.FORGET: TokenScores(stats, answer, answer)}) == pytest.approx((1.5 + 0.5) / 2)


def test_unilogit_has_the_gradient_of_its_reverse_divergence() -> None:
    """KL(P || target), the target held still: its true token at 1/V, the others in their own proportions."""
    torch.manual_seed(0)
    z_V, label = torch.randn(6, dtype=torch.float64, requires_grad=True), 2
    logp_V = z_V.log_softmax(-1)
    own_V = z_V.detach().clone()
    others = torch.cat([own_V[:label], own_V[label + 1 :]]).logsumexp(-1)
    own_V[label] = others - log(5)
    target_V = own_V.log_softmax(-1)
    assert float(target_V[label].exp()) == pytest.approx(1 / 6)
    divergence = (logp_V.exp() * (logp_V - target_V)).sum()
    (expected,) = torch.autograd.grad(divergence, z_V, retain_graph=True)
    answer = torch.tensor([[True]])
    stats = {Stat.LOGP: logp_V[label].reshape(1, 1), Stat.LOG_VOCABULARY: torch.full((1, 1), log(6)).double()}
    loss = Unilogit().loss({Pass.FORGET: TokenScores(stats, answer, answer)}).sum
    assert loss.item() == pytest.approx(divergence.item())
    torch.testing.assert_close(torch.autograd.grad(loss, z_V)[0], expected)


@pytest.mark.parametrize(("p", "expected"), [(1 / 50, 0.0), (1.0, log(50))])
def test_unilogit_is_nothing_at_the_uniform_probability_and_finite_at_certainty(p: float, expected: float) -> None:
    answer = torch.tensor([[False, True]])
    stats = {Stat.LOGP: torch.tensor([[0.0, log(p)]]), Stat.LOG_VOCABULARY: torch.tensor([[0.0, log(50)]])}
    assert mean(Unilogit(), {Pass.FORGET: TokenScores(stats, answer, answer)}) == pytest.approx(expected, abs=1e-4)


def test_eul_by_hand() -> None:
    answer = torch.tensor([[False, True, True]])
    stats = {Stat.LOGP: torch.tensor([[0.0, -1.0, -3.0]]), Stat.REFERENCE_KL: torch.tensor([[0.0, 2.0, 8.0]])}
    scores = {Pass.FORGET: TokenScores(stats, answer, answer)}
    assert mean(EUL(bound=None, likelihood=0.5), scores) == pytest.approx((-0.5 - 2 - 1.5 - 8) / 2)
    assert mean(EUL(bound=5, likelihood=0), scores) == pytest.approx(-(2 + 5) / 2)


def test_npo_by_token_is_npo_of_texts_of_one_token() -> None:
    """Ratios -0.5, 0 and -3 of the answers' three tokens; at the start each token is 2 log 2 / beta."""
    scores = {Pass.FORGET: FORGET, Pass.REFERENCE_FORGET: REFERENCE}
    expected = sum(-4 * log_sigmoid(-0.5 * ratio) for ratio in (-0.5, 0, -3)) / 3
    assert mean(NPO(beta=0.5, reduction="token"), scores) == pytest.approx(expected)
