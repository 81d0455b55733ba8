"""Every method's loss against values worked out by hand, and the limits that its formula has."""

from math import exp, inf, log, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from obliviate.errors import UserError
from obliviate.methods import (
    AP,
    CEU,
    DPO,
    FORGET_TYPES,
    GA,
    GD,
    IDK,
    KL,
    ME,
    NPO,
    PDU,
    REGULARIZER_TYPES,
    RMU,
    UNDIAL,
    WGA,
    Activations,
    AdaptiveRMU,
    AltPO,
    BoundedGD,
    Mismatch,
    Pass,
    Positions,
    Regularizer,
    SatImp,
    Scores,
    SimNPO,
    TaskVector,
    Term,
    Text,
    expand,
    union_of_needs,
)
from obliviate.methods.rmu import direction
from obliviate.scoring import Activation, AnyStat, Distilled, Stat, TokenScores


def scores_of(stat: AnyStat, values_BT: list[list[float]], answer_BT: list[list[int]]) -> TokenScores:
    """Position 0 has no predecessor; every other one belongs to the sequence."""
    answer = torch.tensor(answer_BT, dtype=torch.bool)
    sequence = torch.ones_like(answer)
    sequence[:, 0] = False
    return TokenScores({stat: torch.tensor(values_BT, dtype=torch.float64)}, answer, sequence)


def logps(values_BT: list[list[float]], answer_BT: list[list[int]]) -> TokenScores:
    return scores_of(Stat.LOGP, values_BT, answer_BT)


def states(values_BT: list[list[float]], answer_BT: list[list[int]], layer: int = 7) -> TokenScores:
    """Hidden states of one dimension."""
    flat = scores_of(Stat.LOGP, values_BT, answer_BT)
    return TokenScores({Activation(layer): flat.logp_BT[..., None]}, flat.answer_BT, flat.sequence_BT)


def mean(term: Term, scores: Scores) -> float:
    loss = term.loss(scores)
    return float(loss.sum / loss.count)


def gradient(term: Term, each: Text, logp_BT: list[list[float]], answer_BT: list[list[int]]) -> list[list[float]]:
    """Of the loss's sum in the log-probabilities."""
    values = torch.tensor(logp_BT, dtype=torch.float64, requires_grad=True)
    answer = torch.tensor(answer_BT, dtype=torch.bool)
    term.loss({each: TokenScores({Stat.LOGP: values}, answer, answer)}).sum.backward()
    assert values.grad is not None
    return values.grad.tolist()  # type: ignore[no-any-return]


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


def test_altpo_is_dpo_with_the_alternative_as_the_preferred_answer() -> None:
    # margins as of DPO: alternatives 1 and 1, truth -0.5 and -3
    scores = {
        Pass.FORGET: FORGET,
        Pass.FORGET_ALTERNATIVE: REFUSAL,
        Pass.REFERENCE_FORGET: REFERENCE,
        Pass.REFERENCE_FORGET_ALTERNATIVE: REFERENCE_REFUSAL,
    }
    assert mean(AltPO(beta=0.1), scores) == pytest.approx((-20 * log_sigmoid(0.15) - 20 * log_sigmoid(0.4)) / 2)


def test_simnpo_by_hand() -> None:
    # mean log-probabilities -1.5 and -4; with b = 0.5 and d = 1: b (1.5 - 1) = 0.25 and b (4 - 1) = 1.5
    expected = (-4 * log_sigmoid(0.25) - 4 * log_sigmoid(1.5)) / 2
    assert mean(SimNPO(beta=0.5, delta=1), {Pass.FORGET: FORGET}) == pytest.approx(expected)


def test_simnpo_is_npo_by_mean_against_a_certain_reference() -> None:
    """Where the reference gives log-probability 0, its ratio is the log-probability itself."""
    certain = logps([[0, 0, 0], [0, 0, 0]], [[0, 1, 1], [0, 0, 1]])
    npo = mean(NPO(beta=4.5, reduction="mean"), {Pass.FORGET: FORGET, Pass.REFERENCE_FORGET: certain})
    assert mean(SimNPO(), {Pass.FORGET: FORGET}) == pytest.approx(npo)


def test_wga_by_hand_with_a_weight_that_has_no_gradient() -> None:
    expected = (exp(-1) * -1 + exp(-2) * -2 + exp(-4) * -4) / 3
    assert mean(WGA(), {Pass.FORGET: FORGET}) == pytest.approx(expected)
    assert mean(WGA(beta=0), {Pass.FORGET: FORGET}) == pytest.approx(mean(GA(), {Pass.FORGET: FORGET}))
    # d/d log p = p^beta, the prompt's tokens none
    assert gradient(WGA(beta=2), Pass.FORGET, [[-5, -1, -2]], [[0, 1, 1]]) == [pytest.approx([0, exp(-2), exp(-4)])]


def test_satimp_by_hand_with_a_weight_that_has_no_gradient() -> None:
    def weight(logp: float) -> float:
        return exp(5 * logp) * (1 - exp(logp))

    expected = (weight(-1) * -1 + weight(-2) * -2 + weight(-4) * -4) / 3
    assert mean(SatImp(), {Pass.FORGET: FORGET}) == pytest.approx(expected)
    assert gradient(SatImp(), Pass.FORGET, [[-1, -2]], [[1, 1]]) == [pytest.approx([weight(-1), weight(-2)])]
    assert gradient(SatImp(), Pass.FORGET, [[0, -30]], [[1, 1]]) == [pytest.approx([0, 0])]  # certain, and forgotten


@given(logp=st.floats(-20, -1e-3))
def test_satimp_without_importance_is_wga(logp: float) -> None:
    scores = {Pass.FORGET: logps([[0, logp]], [[0, 1]])}
    assert mean(SatImp(beta1=3, beta2=0), scores) == pytest.approx(mean(WGA(beta=3), scores))


def test_undial_means_over_the_answer_alone() -> None:
    """Published code averages over prompt and padding too, where the label -100 stands for the token V - 100."""
    values = [[9.0, 1.0, 2.0], [9.0, 9.0, 9.0]]
    scores = {Pass.FORGET: scores_of(Distilled("reference", 10.0), values, [[0, 1, 1], [0, 0, 1]])}
    assert mean(UNDIAL(), scores) == pytest.approx((1 + 2 + 9) / 3)
    assert UNDIAL(beta=3).needs == {Pass.FORGET: {Distilled("reference", 3.0): Positions.ANSWER}}


def test_ceu_skips_the_first_answer_tokens() -> None:
    scores = {
        Pass.FORGET: scores_of(Distilled("self", inf), [[9, 1, 2, 3], [9, 9, 4, 5]], [[0, 1, 1, 1], [0, 0, 1, 1]])
    }
    assert mean(CEU(), scores) == pytest.approx((2 + 3 + 5) / 3)
    assert mean(CEU(skip=0), scores) == pytest.approx((1 + 2 + 3 + 4 + 5) / 5)
    assert mean(CEU(skip=2), scores) == pytest.approx(3)
    assert float(CEU(skip=3).loss(scores).count) == 0  # the loop divides by at least one


def test_pdu_is_the_mean_squared_gap_and_its_constraint_the_violation() -> None:
    gaps = scores_of(Stat.LOGIT_GAP, [[9, 1, 2], [9, 9, 3]], [[0, 1, 1], [0, 0, 1]])
    assert mean(PDU(), {Pass.FORGET: gaps}) == pytest.approx((1 + 4 + 9) / 3)
    # cross-entropy 7/3 over a bound of 0.3
    assert mean(BoundedGD(epsilon=0.3), {Pass.RETAIN: FORGET}) == pytest.approx(7 / 3 - 0.3)


def test_the_dual_variable_by_hand() -> None:
    term = BoundedGD(weight=10, step=2, warmup=0.5)
    assert term.next_weight(10, 3.0, done=0.4) == 10  # warming up
    assert term.next_weight(10, 3.0, done=0.5) == 16  # 10 + 2 * 3
    assert term.next_weight(16, -0.25, done=0.6) == 15.5
    assert term.next_weight(15.5, -100.0, done=0.7) == 0  # a constraint that holds never pushes
    assert GD(weight=10).next_weight(10, 3.0, done=0.6) == 10


@given(weight=st.floats(0, 1e3), violation=st.floats(-1e3, 1e3))
def test_the_dual_variable_moves_with_the_violation_and_stays_non_negative(weight: float, violation: float) -> None:
    after = BoundedGD(warmup=0).next_weight(weight, violation, done=0)
    assert after >= 0
    assert (after - weight) * violation >= 0


def test_rmu_divides_each_text_by_its_own_length() -> None:
    """Squared distances sum to S = (10, 1) over n = (100, 1) tokens: mean(S_i / n_i) = (0.1 + 1) / 2 = 0.55.

    Published code broadcasts [b] over [b, 1] to mean(S) mean(1 / n) = 5.5 * 0.505 = 2.78.
    """
    distance = sqrt(0.1)
    first, second = [0.0] + [2 + distance] * 100, [0.0] * 100 + [2 + 1.0]
    scores = {Pass.FORGET: states([first, second], [[0] + [1] * 100, [0] * 100 + [1]])}
    assert mean(RMU(steering=2, seed=0), scores) == pytest.approx(0.55, rel=1e-5)  # in one dimension u is 1
    # over the whole sequence the second text adds 99 distances of 2^2
    everywhere = RMU(steering=2, seed=0, positions=Positions.SEQUENCE)
    assert mean(everywhere, scores) == pytest.approx((0.1 + (99 * 4 + 1) / 100) / 2, rel=1e-5)


def test_rmu_steers_along_a_seeded_direction_of_length_one() -> None:
    like = torch.zeros(1, 1, 64)
    u = direction(3, like)
    assert float(u.norm()) == pytest.approx(1)
    assert float(u.min()) >= 0
    assert torch.equal(u, direction(3, like))
    assert not torch.equal(u, direction(4, like))
    assert direction(3, like.double()).dtype is torch.float64
    assert RMU().seeded(3).seed == 3
    assert RMU(seed=1).seeded(3).seed == 1
    assert RMU(layer=5).seeded(3) == RMU(layer=5, seed=3)
    assert AdaptiveRMU(layer=5).seeded(3) == AdaptiveRMU(layer=5, seed=3)
    assert AdaptiveRMU(seed=0).seeded(3).seed == 0
    assert GA().seeded(3) == GA()
    # at the target the loss is 0; at the origin it is ||c u||^2 / D = 4 / 64
    mask = torch.ones(1, 1, dtype=torch.bool)
    at = {Pass.FORGET: TokenScores({Activation(7): 2 * u[None, None]}, mask, mask)}
    origin = {Pass.FORGET: TokenScores({Activation(7): like}, mask, mask)}
    assert mean(RMU(seed=3), at) == pytest.approx(0, abs=1e-12)
    assert mean(RMU(seed=3), origin) == pytest.approx(4 / 64)


def test_adaptive_rmu_scales_the_target_by_the_references_own_length() -> None:
    # targets 5 * |h_ref|: 5 * 1 = 5 and 5 * 2 = 10, so distances 5 - 4 = 1 and 10 - 8 = 2
    scores = {Pass.FORGET: states([[0, 4, 8]], [[0, 1, 1]]), Pass.REFERENCE_FORGET: states([[0, -1, 2]], [[0, 1, 1]])}
    assert mean(AdaptiveRMU(seed=0), scores) == pytest.approx((1 + 4) / 2)
    # the prompt's token behind the first one, at 6 and with a target of 5, counts over the sequence alone
    prompt = {Pass.FORGET: states([[0, 6, 8]], [[0, 0, 1]]), Pass.REFERENCE_FORGET: states([[0, 1, 2]], [[0, 0, 1]])}
    assert mean(AdaptiveRMU(seed=0), prompt) == pytest.approx(4)
    assert mean(AdaptiveRMU(seed=0, positions=Positions.SEQUENCE), prompt) == pytest.approx((1 + 4) / 2)


def test_adaptive_rmus_target_has_the_direction_and_that_length() -> None:
    """From the origin it is 3 |(3, 4)| = 15 away, over two dimensions; it lies along u."""
    mask = torch.ones(1, 1, dtype=torch.bool)
    reference = {Pass.REFERENCE_FORGET: TokenScores({Activation(7): torch.tensor([[[3.0, 4.0]]])}, mask, mask)}
    origin = TokenScores({Activation(7): torch.zeros(1, 1, 2)}, mask, mask)
    term = AdaptiveRMU(seed=0, scale=3)
    assert mean(term, {Pass.FORGET: origin, **reference}) == pytest.approx(15**2 / 2)
    there = TokenScores({Activation(7): 15 * direction(0, torch.zeros(1, 1, 2))[None, None]}, mask, mask)
    assert mean(term, {Pass.FORGET: there, **reference}) == pytest.approx(0, abs=1e-9)


def test_activations_is_the_distance_to_the_start_per_text() -> None:
    # texts of two tokens with distances 1 and 2, and of one with 3: ((1 + 4) / 2 + 9) / 2
    answer = [[0, 1, 1], [0, 0, 1]]
    scores = {
        Pass.RETAIN: states([[0, 4, 8], [0, 0, 3]], answer),
        Pass.REFERENCE_RETAIN: states([[0, 3, 6], [0, 0, 0]], answer),
    }
    assert mean(Activations(layer=7), scores) == pytest.approx((2.5 + 9) / 2)
    scores[Pass.REFERENCE_RETAIN] = scores[Pass.RETAIN]
    assert mean(Activations(layer=7), scores) == 0


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
    assert expand("pdu")["regularizers"] == [{"type": "bounded_gd"}]
    assert expand("pdu+gd")["regularizers"] == [{"type": "gd"}]
    assert [each["type"] for each in expand("adaptive_rmu")["regularizers"]] == ["activations"]
    assert (SimNPO().weight, SimNPO().beta, SimNPO().delta) == (0.125, 4.5, 0)
    assert (SatImp().weight, SatImp().beta1, SatImp().beta2) == (0.1, 5, 1)
    assert (BoundedGD().weight, BoundedGD().step, BoundedGD().epsilon, BoundedGD().warmup) == (100, 5, 0.3, 0.5)
    assert (RMU().layer, RMU().steering, UNDIAL().beta, WGA().beta, CEU().skip) == (7, 2, 10, 1, 1)
    with pytest.raises(UserError, match="no regularizer 'gdd'; known: gd"):
        expand("npo+gdd")
    with pytest.raises(UserError, match=r"no forget objective 'npoo'; known: ga, .*llmu"):
        expand("npoo+gd")


@pytest.mark.parametrize("name", [*FORGET_TYPES, *REGULARIZER_TYPES])
def test_every_method_survives_its_stored_config(name: str) -> None:
    cls = {**FORGET_TYPES, **REGULARIZER_TYPES}[name]
    options = {"trainable": r"layers\.(5|6|7)\.mlp\.down_proj"} if name in FORGET_TYPES else {}
    term = cls.model_validate({"type": name, **options})
    assert cls.model_validate(term.model_dump(mode="json")) == term
    composed = term.beside(TaskVector() if name == "divergence" else RMU()) if isinstance(term, Regularizer) else term
    assert all(stats for stats in composed.needs.values())


def test_activations_hold_the_layer_that_is_steered_unless_given_one() -> None:
    assert Activations().beside(RMU(layer=5)).layer == 5
    assert Activations().beside(AdaptiveRMU(layer="model.layers.3")).layer == "model.layers.3"
    assert Activations(layer=2).beside(RMU(layer=5)).layer == 2
    with pytest.raises(ValueError, match="npo steers no layer"):
        Activations().beside(NPO())
    with pytest.raises(ValueError, match="layers are counted from 0"):
        RMU(layer=-1)


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="valid regular expression"):
        RMU.model_validate({"trainable": "layers.(5"})


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
