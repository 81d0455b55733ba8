"""Every method's loss against values worked out by hand, and the limits that its formula has."""

from math import exp, log

import pytest
import torch
from torch import Tensor

from obliviate.errors import UserError
from obliviate.methods import (
    AP,
    DPO,
    GA,
    GD,
    IDK,
    KL,
    ME,
    NPO,
    Mismatch,
    Pass,
    Positions,
    Scores,
    expand,
    union_of_needs,
)
from obliviate.scoring import Stat, TokenScores


def scores_of(stat: Stat, values_BT: list[list[float]], answer_BT: list[list[int]]) -> TokenScores:
    """Position 0 has no predecessor; every other one belongs to the sequence."""
    answer = torch.tensor(answer_BT, dtype=torch.bool)
    sequence = torch.ones_like(answer)
    sequence[:, 0] = False
    return TokenScores({stat: torch.tensor(values_BT, dtype=torch.float64)}, answer, sequence)


def logps(values_BT: list[list[float]], answer_BT: list[list[int]]) -> TokenScores:
    return scores_of(Stat.LOGP, values_BT, answer_BT)


def mean(term: object, scores: Scores) -> float:
    loss = term.loss(scores)  # type: ignore[attr-defined]
    return float(loss.sum / loss.count)


# Two texts: answers of two tokens and of one; summed log-probabilities -3 and -4.
FORGET = logps([[0, -1, -2], [0, 0, -4]], [[0, 1, 1], [0, 0, 1]])
# The reference gives them -2.5 and -1.
REFERENCE = logps([[0, -0.5, -2], [0, 0, -1]], [[0, 1, 1], [0, 0, 1]])
REFUSAL = logps([[0, -2, -2], [0, -3, -3]], [[0, 1, 1], [0, 1, 1]])  # sums -4 and -6
REFERENCE_REFUSAL = logps([[0, -2.5, -2.5], [0, -3, -4]], [[0, 1, 1], [0, 1, 1]])  # sums -5 and -7


def log_sigmoid(x: float) -> float:
    return -log(1 + exp(-x))


def test_ga_is_the_token_mean_of_log_p() -> None:
    assert mean(GA(), {Pass.FORGET: FORGET}) == pytest.approx((-1 - 2 - 4) / 3)


def test_gd_is_the_token_mean_of_minus_log_p() -> None:
    assert mean(GD(), {Pass.RETAIN: FORGET}) == pytest.approx(7 / 3)


def test_idk_and_mismatch_are_cross_entropies_of_their_own_texts() -> None:
    assert mean(IDK(), {Pass.FORGET_IDK: REFUSAL}) == pytest.approx((2 + 2 + 3 + 3) / 4)
    assert mean(Mismatch(), {Pass.FORGET_MISMATCH: REFUSAL}) == pytest.approx(2.5)


def test_npo_by_hand() -> None:
    # log ratios of sums: -3 - -2.5 = -0.5 and -4 - -1 = -3; -(2/b) log sigmoid(-b r) with b = 0.5
    expected = (-4 * log_sigmoid(0.25) - 4 * log_sigmoid(1.5)) / 2
    scores = {Pass.FORGET: FORGET, Pass.REFERENCE_FORGET: REFERENCE}
    assert mean(NPO(beta=0.5), scores) == pytest.approx(expected)


def test_npo_with_mean_reduction_divides_by_the_answers_length() -> None:
    expected = (-4 * log_sigmoid(0.5 * 0.25) - 4 * log_sigmoid(1.5)) / 2
    scores = {Pass.FORGET: FORGET, Pass.REFERENCE_FORGET: REFERENCE}
    assert mean(NPO(beta=0.5, reduction="mean"), scores) == pytest.approx(expected)


def test_npo_at_the_start_is_two_log_two_over_beta() -> None:
    scores = {Pass.FORGET: FORGET, Pass.REFERENCE_FORGET: FORGET}
    assert mean(NPO(beta=0.1), scores) == pytest.approx(20 * log(2))


def test_npo_tends_to_gradient_ascent_as_beta_vanishes() -> None:
    """Its gradient in a text's log-probability tends to 1, that of ascent on the summed log-likelihood."""
    logp_BT = torch.tensor([[0.0, -1, -2]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[False, True, True]])
    forget = TokenScores({Stat.LOGP: logp_BT}, mask, mask)
    reference = TokenScores({Stat.LOGP: logp_BT.detach() + 0.3}, mask, mask)
    NPO(beta=1e-6).loss({Pass.FORGET: forget, Pass.REFERENCE_FORGET: reference}).sum.backward()
    assert logp_BT.grad is not None
    assert logp_BT.grad.tolist()[0] == pytest.approx([0, 1, 1], abs=1e-5)


def test_dpo_by_hand() -> None:
    # refusals: -4 - -5 = 1, -6 - -7 = 1; truth: -0.5, -3; margins 1.5 and 4; b = 0.1
    scores = {
        Pass.FORGET: FORGET,
        Pass.FORGET_IDK: REFUSAL,
        Pass.REFERENCE_FORGET: REFERENCE,
        Pass.REFERENCE_FORGET_IDK: REFERENCE_REFUSAL,
    }
    assert mean(DPO(beta=0.1), scores) == pytest.approx((-20 * log_sigmoid(0.15) - 20 * log_sigmoid(0.4)) / 2)


def test_ap_by_hand_and_its_adaptive_weight() -> None:
    # margins log p(answer) - log p(refusal): -3 + 4 = 1 and -4 + 6 = 2
    scores = {Pass.RETAIN: FORGET, Pass.RETAIN_IDK: REFUSAL}
    assert mean(AP(beta=0.1), scores) == pytest.approx((-10 * log_sigmoid(0.1) - 10 * log_sigmoid(0.2)) / 2)
    # d/d log p(answer) = -p(refusal)^b / (p(answer)^b + p(refusal)^b)
    answer_BT = torch.tensor([[0.0, -3]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[False, True]])
    refusal = logps([[0, -4]], [[0, 1]])
    AP(beta=0.1).loss(
        {Pass.RETAIN: TokenScores({Stat.LOGP: answer_BT}, mask, mask), Pass.RETAIN_IDK: refusal}
    ).sum.backward()
    assert answer_BT.grad is not None
    weight = exp(-0.4) / (exp(-0.3) + exp(-0.4))
    assert float(answer_BT.grad[0, 1]) == pytest.approx(-weight)


def test_me_means_over_prompt_and_answer_in_either_direction() -> None:
    code = scores_of(Stat.UNIFORM_KL, [[0, 1.0, 2.0], [0, 3.0, 6.0]], [[0, 0, 1], [0, 0, 1]])
    paper = scores_of(Stat.ENTROPY, [[0, 1.0, 2.0], [0, 3.0, 6.0]], [[0, 0, 1], [0, 0, 1]])
    assert mean(ME(), {Pass.FORGET: code}) == pytest.approx(12 / 4)
    assert mean(ME(positions=Positions.ANSWER), {Pass.FORGET: code}) == pytest.approx(8 / 2)
    assert mean(ME(direction="model_to_uniform"), {Pass.FORGET: paper}) == pytest.approx(-3)


def test_kl_means_over_its_positions() -> None:
    scores = {Pass.RETAIN: scores_of(Stat.REFERENCE_KL, [[0, 1.0, 2.0]], [[0, 0, 1]])}
    assert mean(KL(), scores) == pytest.approx(1.5)
    assert mean(KL(positions=Positions.ANSWER), scores) == pytest.approx(2)


def test_published_weights_and_short_forms() -> None:
    assert ME().weight == 0.1  # "A Closer Look", TOFU
    assert expand("me+gd") == {"method": {"type": "me"}, "regularizers": [{"type": "gd"}]}
    assert [each["type"] for each in expand("llmu")["regularizers"]] == ["mismatch", "kl"]
    with pytest.raises(UserError, match="no regularizer 'gdd'; known: gd"):
        expand("npo+gdd")


def test_needs_of_several_terms_are_merged_to_the_wider_positions() -> None:
    needs = union_of_needs([GA(), ME(positions=Positions.PADDED), GD(), KL()])
    assert needs[Pass.FORGET] == {Stat.LOGP: Positions.ANSWER, Stat.UNIFORM_KL: Positions.PADDED}
    assert needs[Pass.RETAIN] == {Stat.LOGP: Positions.ANSWER, Stat.REFERENCE_KL: Positions.SEQUENCE}


@pytest.mark.parametrize("split", [1, 2])
def test_sums_and_counts_of_micro_batches_add_up(split: int) -> None:
    """The step's mean is the sum of sums over the sum of counts: that of one batch, however it is cut."""

    def part(scores: TokenScores, rows: slice) -> TokenScores:
        cut: dict[Stat, Tensor] = {stat: value[rows] for stat, value in scores.stats.items()}
        return TokenScores(cut, scores.answer_BT[rows], scores.sequence_BT[rows])

    for term in (GA(), NPO()):
        whole = term.loss({Pass.FORGET: FORGET, Pass.REFERENCE_FORGET: REFERENCE})
        parts = [
            term.loss({Pass.FORGET: part(FORGET, rows), Pass.REFERENCE_FORGET: part(REFERENCE, rows)})
            for rows in (slice(0, split), slice(split, 2))
        ]
        assert float(sum(each.sum for each in parts)) == pytest.approx(float(whole.sum))
        assert sum(float(each.count) for each in parts) == float(whole.count)
