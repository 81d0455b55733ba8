"""Membership inference and what compares it with a retain model."""

from collections.abc import Sequence
from math import nan
from zlib import compress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from measured import record
from obliviate.data.rows import Role
from obliviate_eval.metrics import (
    Comparison,
    MiaGradNorm,
    MiaLoss,
    MiaMinK,
    MiaMinKPlusPlus,
    MiaReference,
    MiaZlib,
    Privacy,
    PrivLeak,
    RelativeDifference,
)
from obliviate_eval.records import Probe, Record, ScoredAnswer
from obliviate_eval.statistics import Estimate, auc
from obliviate_eval.suites import SUITES
from obliviate_eval.summary import draw, summarise


def item(role: Role, index: int, *logp: float, name: str | None = None, **fields: object) -> Record:
    """A record whose true answer has these tokens and an end of turn that is certain."""
    tokens = (*logp, 0.0)
    answer = ScoredAnswer("some text", tokens, (False,) * len(tokens))
    return record(role, set=name or role.value, index=index, answers={Probe.ANSWER: (answer,)}, **fields)


def records(forget: Sequence[float], holdout: Sequence[float]) -> list[Record]:
    """Answers of one token each, with these log-probabilities."""
    return [
        *(item(Role.FORGET, i, logp) for i, logp in enumerate(forget)),
        *(item(Role.HOLDOUT, i, logp) for i, logp in enumerate(holdout)),
    ]


def estimate(comparison: Comparison, own: Sequence[Record], reference: Sequence[Record] | None = None) -> Estimate:
    return comparison.estimate(draw(own, 200, 0, reference))


def test_auc_by_hand() -> None:
    # Losses: forget 1 and 3, holdout 2, 3 and 4. Of the six pairs, holdout is above in 1<2 1<3 1<4 3<4, equal in 3=3.
    found = estimate(MiaLoss(), records([-1, -3], [-2, -3, -4]))
    # The end of turn halves every loss and changes no order.
    assert found.value == pytest.approx(4.5 / 6)
    assert (found.scored, found.unscored) == (5, 0)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=12),
    st.lists(st.integers(-5, 5), min_size=1, max_size=12),
    st.randoms(),
)
def test_auc_is_scikit_learns_with_ties_and_weights(low: list[int], high: list[int], random) -> None:
    low_RI = np.array([[1.0 + random.randrange(4) for _ in low] for _ in range(3)])
    high_RI = np.array([[1.0 + random.randrange(4) for _ in high] for _ in range(3)])
    found, drawn = auc([float(x) for x in low], [float(x) for x in high], low_RI, high_RI)
    labels = [0] * len(low) + [1] * len(high)
    expected = [
        roc_auc_score(labels, low + high, sample_weight=[*one, *other])
        for one, other in zip(low_RI, high_RI, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert drawn.all()


@given(st.lists(st.floats(-9, 0), min_size=1, max_size=8), st.lists(st.floats(-9, 0), min_size=1, max_size=8))
def test_swapping_forget_and_holdout_turns_the_auc(forget: list[float], holdout: list[float]) -> None:
    one = estimate(MiaLoss(), records(forget, holdout)).value
    other = estimate(MiaLoss(), records(holdout, forget)).value
    assert one is not None
    assert other is not None
    assert one + other == pytest.approx(1)


def test_a_resample_without_forget_items_is_not_drawn() -> None:
    _, drawn = auc([1.0], [2.0], np.array([[0.0], [1.0]]), np.array([[1.0], [1.0]]))
    assert drawn.tolist() == [False, True]


def test_the_interval_holds_the_value_and_a_single_item_has_none() -> None:
    rng = np.random.default_rng(0)
    figure = estimate(MiaLoss(), records(list(-rng.random(40)), list(-rng.random(40) - 0.2))).figure()
    assert figure.low is not None
    assert figure.high is not None
    assert figure.value is not None
    assert 0 < figure.low < figure.value < figure.high <= 1
    assert estimate(MiaLoss(), records([-1], [-2, -3])).figure().low is None


@pytest.mark.parametrize("comparison", [MiaLoss(), MiaZlib(), MiaMinK(), PrivLeak(), RelativeDifference(), Privacy()])
def test_without_a_holdout_set_there_is_no_value(comparison: Comparison) -> None:
    own = records([-1, -2], [])
    found = estimate(comparison, own, own).figure()
    assert (found.value, found.low, found.scored) == (None, None, 0)
    assert estimate(comparison, []).value is None


def test_a_collapsed_models_items_are_counted_as_unscored() -> None:
    found = estimate(MiaLoss(), records([-1, nan], [-2, -3]))
    assert (found.value, found.scored, found.unscored) == (1.0, 3, 1)
    assert estimate(MiaLoss(), records([nan, nan], [-2, -3])).unscored == 4


def test_a_named_forget_set_leaves_the_others_out() -> None:
    others = [item(Role.FORGET, i, -9.0, name="questions") for i in range(5)]
    own = [*records([-1, -2], [-3, -4]), *others]
    assert estimate(MiaLoss(forget_set="forget"), own).value == 1
    assert estimate(MiaLoss(), own).value == pytest.approx(4 / 14)


def test_signals_by_hand() -> None:
    one = item(Role.FORGET, 0, -1.0, -2.0, -3.0, -4.0, -5.0)
    assert MiaLoss().signal(one, None) == pytest.approx(15 / 6)  # the end of turn counts
    assert MiaZlib().signal(one, None) == pytest.approx(15 / 6 / len(compress(b"some text")))
    assert MiaMinK().signal(one, None) == pytest.approx(4.5)  # of five tokens, the lowest int(0.4 * 5) = 2
    assert MiaMinK(k=0.1).signal(one, None) == 5  # at least one
    assert MiaReference().signal(one, item(Role.FORGET, 0, -4.0)) == pytest.approx(15 / 6 - 2)
    assert MiaReference().signal(one, None) is None
    assert MiaGradNorm().signal(record(gradient_norm=2.5), None) == 2.5
    assert MiaGradNorm().signal(record(gradient_norm=nan), None) is None
    assert MiaGradNorm().signal(one, None) is None


def test_min_k_plus_plus_by_hand() -> None:
    # Standardised: (-1 + 2) / 1 = 1, (-5 + 2) / 2 = -1.5, (-4 + 2) / 0.5 = -4. The lowest int(0.7 * 3) = 2: -2.75.
    answer = ScoredAnswer("", (-1.0, -5.0, -4.0, -9.0), (True,) * 4, (-2.0,) * 4, (1.0, 4.0, 0.25, 1.0))
    measured = record(answers={Probe.MOMENTS: (answer,)})
    assert MiaMinKPlusPlus(k=0.7).signal(measured, None) == pytest.approx(2.75)
    certain = ScoredAnswer("", (-1.0, 0.0), (True,) * 2, (-2.0, 0.0), (0.0, 0.0))  # variance 0: floored at 1e-6
    assert MiaMinKPlusPlus().signal(record(answers={Probe.MOMENTS: (certain,)}), None) == pytest.approx(-1000)


def test_signals_that_were_not_measured_are_unknown() -> None:
    imported = record(answers={Probe.ANSWER: (ScoredAnswer("", (-1.0, -1.0)),)})  # the mean alone, no text
    assert MiaLoss().signal(imported, None) == 1
    assert MiaZlib().signal(imported, None) is None
    assert MiaMinK().signal(imported, None) is None
    assert MiaMinKPlusPlus().signal(imported, None) is None
    without = record(answers={Probe.MOMENTS: (ScoredAnswer("", (-1.0, -1.0), (True, True)),)})
    assert MiaMinKPlusPlus().signal(without, None) is None
    assert all(attack.signal(record(), None) is None for attack in (MiaLoss(), MiaZlib(), MiaMinK()))


def test_the_reference_attack_takes_out_how_hard_a_text_is() -> None:
    # The losses alone tell nothing (forget texts are harder), the losses above the reference's tell all.
    own, reference = records([-5, -6], [-2, -3]), records([-9, -9], [-2, -3])
    assert estimate(MiaLoss(), own).value == 0
    assert estimate(MiaReference(), own, reference).value == 1
    assert estimate(MiaReference(), own, own).value == 0.5


def test_privleak_by_hand() -> None:
    # The model: AUC 1, A = 0. The retain model: of its four pairs 3 are ordered, AUC 0.75, A = 0.25.
    own, retain = records([-1, -2], [-3, -4]), records([-1, -3], [-2, -4])
    found = estimate(PrivLeak(), own, retain)
    assert found.value == pytest.approx(-100)  # 100 (0 - 0.25) / 0.25
    assert estimate(RelativeDifference(), own, retain).value == pytest.approx(100 * 0.25 / 0.75)
    assert estimate(PrivLeak(), retain, own).value is None  # A of the reference is 0: nothing to relate to
    assert estimate(PrivLeak(definition="openunlearning"), retain, own).value == pytest.approx(100 * 0.25 / 1e-10)


def test_privleak_of_the_retain_model_itself_is_0_in_every_resample() -> None:
    own = records([-1, -3, -5, -4], [-2, -4, -3, -6])
    found = estimate(PrivLeak(), own, own)
    assert found.value == 0
    assert (found.resampled[found.drawn] == 0).all()
    assert found.drawn.any()


def test_without_a_retain_model_only_openunlearnings_privleak_has_a_value() -> None:
    own = records([-1, -3], [-2, -4])
    assert estimate(PrivLeak(), own).value is None
    assert estimate(PrivLeak(definition="openunlearning"), own).value == pytest.approx(-50)  # 100 (0.25 - 0.5) / 0.5


def test_openunlearnings_published_privleak() -> None:
    # Its logs of a 1B retain model: Min-K% AUC 0.3826125 on 400 x 400 texts, PrivLeak 23.4775 against 0.5.
    # 400 forget and 400 holdout texts with exactly 0.3826125 * 160000 = 61218 pairs in order: 153 holdout texts above
    # all forget texts (61200 pairs), one above 18 of them, and the others below all.
    forget = [-1.0 - i / 1000 for i in range(400)]
    holdout = [-9.0] * 153 + [forget[18] + 0.0005] + [-0.5] * 246
    assert estimate(MiaMinK(), records(forget, holdout)).value == pytest.approx(0.3826125, abs=1e-12)
    found = estimate(PrivLeak(definition="openunlearning"), records(forget, holdout))
    assert found.value == pytest.approx(23.4775, abs=1e-6)


def test_privacy_by_hand() -> None:
    # Loss, zlib (one text) and Min-K% have AUC 1; the retain model's is 0.75: 1 - 0.25 / 0.75 = 2/3 each.
    own, retain = records([-1, -2], [-3, -4]), records([-1, -3], [-2, -4])
    found = estimate(Privacy(), own, retain)
    assert found.value == pytest.approx(2 / 3)
    assert (found.scored, found.unscored) == (3, 1)  # Min-K%++ was not measured
    assert estimate(Privacy(), own, own).value == 1
    assert estimate(Privacy(), own).value is None


def test_summarise_pairs_the_reference_by_item_whatever_the_order() -> None:
    own, retain = records([-1, -2, -6], [-3, -4]), records([-1, -3, -5], [-2, -4])
    suite = SUITES["tofu"]
    found = summarise(own, suite, resamples=100)
    assert found.comparisons["mia_loss"].value == pytest.approx(4 / 6)
    assert found.comparisons["privleak"].value is None
    assert "holdout" not in found.sets  # only comparisons ask for it
    one = summarise(own, suite, resamples=100, reference_records=retain)
    assert summarise(own[::-1], suite, resamples=100, reference_records=retain[::-1]) == one
    assert one.comparisons["mia_reference"].scored == 5
