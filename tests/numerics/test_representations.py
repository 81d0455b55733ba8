"""Losses of hidden states by hand, and their limits: circuit breakers and what goes with them."""

from math import exp, log, sqrt

import pytest
import torch
from torch import Tensor

from obliviate.data.rows import Row
from obliviate.data.schedule import Item
from obliviate.methods import (
    NPO,
    RMU,
    Activations,
    CircuitBreakers,
    Orthogonal,
    Pass,
    Positions,
    RepNoise,
    Representations,
    Scores,
    Term,
    expand,
)
from obliviate.methods.texts import Sets
from obliviate.scoring import Activation, AnyStat, Stat, TokenScores

Vectors = list[list[list[float]]]


def states(answer_BT: list[list[int]], **layers: Vectors) -> TokenScores:
    """Hidden states of layers "l0", "l1", ...; position 0 has no predecessor."""
    answer = torch.tensor(answer_BT, dtype=torch.bool)
    sequence = torch.ones_like(answer)
    sequence[:, 0] = False
    stats: dict[AnyStat, Tensor] = {
        Activation(int(name[1:])): torch.tensor(values, dtype=torch.float, requires_grad=True)
        for name, values in layers.items()
    }
    return TokenScores(stats, answer, sequence)


def mean(term: Term, scores: Scores) -> float:
    loss = term.loss(scores)
    return float((loss.sum / loss.count).detach())


def gradient(term: Term, scores: Scores, of: TokenScores, layer: int = 0) -> Tensor:
    term.loss(scores).sum.backward()
    found = of.stats[Activation(layer)].grad
    assert found is not None
    return found


# One text of three tokens, of which the last two are the answer.
ANSWER = [[0, 1, 1]]
START = states(ANSWER, l0=[[[1, 0], [1, 0], [1, 0]]], l1=[[[0, 2], [0, 2], [0, 2]]])


class TestCircuitBreakers:
    def test_by_hand(self) -> None:
        """Cosines with the start: 3/5 and -1 (no more than 0) in one layer, 1 and 0 in the other."""
        now = states(ANSWER, l0=[[[9, 9], [3, 4], [-1, 0]]], l1=[[[9, 9], [0, 1], [1, 0]]])
        scores = {Pass.FORGET: now, Pass.REFERENCE_FORGET: START}
        assert mean(CircuitBreakers(layers=(0, 1)), scores) == pytest.approx((0.6 / 2 + 0.5) / 2)
        assert mean(CircuitBreakers(layers=(0,)), scores) == pytest.approx(0.3)
        everywhere = CircuitBreakers(layers=(0,), positions=Positions.SEQUENCE)
        assert mean(everywhere, scores) == pytest.approx(0.3)  # the first token is predicted by nothing

    def test_it_begins_at_one_and_pulls_no_further_than_a_right_angle(self) -> None:
        assert mean(CircuitBreakers(layers=(0,)), {Pass.FORGET: START, Pass.REFERENCE_FORGET: START}) == 1
        now = states(ANSWER, l0=[[[0, 0], [1, 1], [-1, 1]]])
        found = gradient(CircuitBreakers(layers=(0,)), {Pass.FORGET: now, Pass.REFERENCE_FORGET: START}, now)
        assert found[0, 1].tolist() == pytest.approx([1 / (2 * sqrt(2)), -1 / (2 * sqrt(2))])  # turned, not shortened
        assert found[0, [0, 2]].tolist() == [[0, 0], [0, 0]]

    def test_its_weight_falls_as_the_others_grow(self) -> None:
        assert [CircuitBreakers().scheduled(done) for done in (0, 0.5, 1)] == [1, 0.875, 0.75]
        assert [Representations().scheduled(done) for done in (0, 0.5, 1)] == [0, 0.5, 1]
        assert [Orthogonal(ramp=(0.5, 0.5)).scheduled(done) for done in (0, 0.3, 1)] == [0.5] * 3
        assert NPO().scheduled(0.7) == 1


class TestRepresentations:
    NOW = states(ANSWER, l0=[[[9, 9], [4, 4], [1, 0]]], l1=[[[9, 9], [0, 0], [0, 2]]])

    def test_by_hand(self) -> None:
        """Distances 5 and 0 in one layer, 2 and 0 in the other, whose states are 2 long."""
        scores = {Pass.RETAIN: self.NOW, Pass.REFERENCE_RETAIN: START}
        assert mean(Representations(layers=(0, 1)), scores) == pytest.approx((2.5 + 1) / 2)
        assert mean(Representations(layers=(0, 1), relative=True), scores) == pytest.approx((2.5 + 0.5) / 2)

    def test_what_has_not_moved_is_not_pulled(self) -> None:
        scores = {Pass.RETAIN: self.NOW, Pass.REFERENCE_RETAIN: START}
        found = gradient(Representations(layers=(0,)), scores, self.NOW)
        torch.testing.assert_close(found, torch.tensor([[[0, 0], [0.6, 0.8], [0, 0]]]))


class TestOrthogonal:
    def test_by_hand(self) -> None:
        """The states' means over the answer: (3, 4) and (1, 0), whose cosine is 3/5; in the second pair they oppose."""
        one = states([[0, 1, 1], [0, 0, 1]], l0=[[[9, 9], [2, 4], [4, 4]], [[9, 9], [9, 9], [1, 0]]])
        other = states([[0, 1], [0, 1]], l0=[[[9, 9], [1, 0]], [[9, 9], [-1, 0]]])
        scores = {Pass.FORGET: one, Pass.FORGET_OTHER: other}
        assert mean(Orthogonal(layers=(0,)), scores) == pytest.approx(0.6 / 2)

    def test_a_row_meets_each_of_the_others_and_never_itself(self) -> None:
        sets = Sets([Row(f"q{i}", f"a{i}") for i in range(4)])
        for anchor in range(4):
            met = {Pass.FORGET_OTHER.said(sets, Item(anchor, alternative=k / 3))[:2] for k in range(3)}
            assert met == {(f"q{i}", f"a{i}") for i in range(4) if i != anchor}

    def test_one_row_has_no_other(self) -> None:
        assert Pass.FORGET_OTHER.lack(Sets([Row("q", "a")])) == "compares each forget row with another; give two rows"
        assert Pass.FORGET_OTHER.lack(Sets([Row("", "a text"), Row("", "another")])) is None


class TestRepNoise:
    @staticmethod
    def scores(one: Vectors, other: Vectors, logp: list[float]) -> Scores:
        """Every token is of the answer; the first text's log-probabilities are given."""
        now = states([[1] * len(one[0])], l0=one)
        now = TokenScores({**now.stats, Stat.LOGP: torch.tensor([logp])}, now.answer_BT, now.sequence_BT)
        return {Pass.FORGET: now, Pass.FORGET_OTHER: states([[1] * len(other[0])], l0=other)}

    def test_by_hand(self) -> None:
        """One dimension, states 1 and 3 against 0; surprises 1 and 3, whose mean is 2. Kernels of width 1/2 to 8."""
        scores = self.scores([[[1], [3]]], [[[0]]], [-1, -3])
        expected = 0.0
        for b in (0.5, 1, 2, 4, 8):
            alike = (exp(-1 / b) + exp(-9 / b)) / 2
            noisy = (exp(-1 / (b + 2)) + exp(-9 / (b + 2))) / 2 / sqrt(1 + 2 / b)
            expected += alike - 2 * noisy + 1 / sqrt(1 + 4 / b)
        assert mean(RepNoise(layers=(0,), noise=1, surprise=0), scores) == pytest.approx(expected, rel=1e-5)
        assert mean(RepNoise(layers=(0,), noise=0, surprise=2), scores) == pytest.approx(-2 * log(3))
        both = mean(RepNoise(layers=(0,)), scores)
        assert both == pytest.approx(0.001 * expected - log(3), rel=1e-5)

    def test_only_answer_tokens_are_compared(self) -> None:
        one = states([[0, 1]], l0=[[[9], [1]]])
        one = TokenScores({**one.stats, Stat.LOGP: torch.zeros(1, 2)}, one.answer_BT, one.sequence_BT)
        masked = {Pass.FORGET: one, Pass.FORGET_OTHER: states([[0, 1, 0]], l0=[[[7], [0], [5]]])}
        term = RepNoise(layers=(0,), noise=1)
        assert mean(term, masked) == pytest.approx(mean(term, self.scores([[[1]]], [[[0]]], [0])))

    def test_noise_is_no_distance_from_noise(self) -> None:
        """Of many draws nearly nothing is left; of others, however near the mean, more."""
        torch.manual_seed(0)
        one, other = (torch.randn(1, 400, 8).tolist() for _ in range(2))
        term = RepNoise(layers=(0,), noise=1, surprise=0)
        noise = abs(mean(term, self.scores(one, other, [0.0] * 400)))
        assert noise < 0.01
        for scale in (0.0, 3.0):
            far = [[[scale * number for number in state] for state in text] for text in (one[0], other[0])]
            assert mean(term, self.scores([far[0]], [far[1]], [0.0] * 400)) > 10 * noise


def test_layers_come_from_what_steers_them() -> None:
    for term in (Representations(), Orthogonal()):
        assert term.beside(CircuitBreakers(layers=(3, "model.layers.5"))).layers == (3, "model.layers.5")
        assert term.beside(RMU(layer=4)).layers == (4,)
        with pytest.raises(ValueError, match=rf"^{term.type}\.layers: npo steers no layer whose states"):
            term.beside(NPO())
    assert Activations().beside(CircuitBreakers(layers=(3,))).layer == 3
    with pytest.raises(ValueError, match=r"^activations\.layer: circuit_breakers steers several layers"):
        Activations().beside(CircuitBreakers())


def test_short_forms() -> None:
    rest = [each["type"] for each in expand("orthogonal_circuit_breakers")["regularizers"]]
    assert rest == ["representations", "orthogonal"]
    assert expand("circuit_breakers")["regularizers"] == [{"type": "representations"}]
