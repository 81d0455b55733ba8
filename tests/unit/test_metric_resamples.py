"""Comparisons under resamples that are written out: what a draw that holds an item twice, or not at all, says."""

from collections.abc import Sequence
from math import nan
from typing import Any

import numpy as np
import pytest

from measured import record
from obliviate.data.rows import Role
from obliviate_eval.metrics import (
    Comparison,
    JudgeAgreement,
    JudgeKappa,
    LeakBound,
    MiaLoss,
    MiaReference,
    MiaScore,
    Privacy,
    PrivLeak,
    RelativeDifference,
)
from obliviate_eval.metrics.attack import mean_of_lowest
from obliviate_eval.metrics.comparison import Sample
from obliviate_eval.metrics.privacy import closeness
from obliviate_eval.records import Probe, Record, ScoredAnswer

LEAK, HALF, SAFE = "the cat sat there", "the cat", "no idea"  # ROUGE-L recall 1, 1/2, 0 of LEAK


def sample(
    role: Role,
    records: Sequence[Record],
    *counts_I: Sequence[float],
    reference: Sequence[Record | None] | None = None,
) -> Sample:
    counts_RI = np.array(counts_I, dtype=np.float64).reshape(len(counts_I), len(records))
    return Sample(role, tuple(records), tuple(reference or (None,) * len(records)), counts_RI)


def lost(role: Role, *losses: float, moments: Sequence[float] | None = None) -> list[Record]:
    """Answers of one token each with these losses; the log-probabilities in deviations from their mean likewise."""
    found = []
    for index, loss in enumerate(losses):
        answer = ScoredAnswer("text", (-loss, 0.0), (True, True))
        answers = {Probe.ANSWER: (answer,)}
        if moments is not None:
            answers[Probe.MOMENTS] = (
                ScoredAnswer("text", (-moments[index], 0.0), (True,) * 2, (0.0,) * 2, (1.0,) * 2),
            )
        found.append(record(role, index=index, answers=answers))
    return found


def told(found: Any) -> list[float | None]:
    """The value under each resample; None where it doesn't count."""
    pairs = zip(found.resampled.tolist(), found.drawn.tolist(), strict=True)
    return [value if drawn else None for value, drawn in pairs]


FORGET, HOLDOUT = lost(Role.FORGET, 1, 3), lost(Role.HOLDOUT, 2, 4)
COUNTS = ([1, 1], [2, 0], [0, 2], [0, 0])  # of the forget items


def attacked(own: Sequence[Record], reference: Sequence[Record] | None = None) -> dict[str, Sample]:
    """The forget items beside the two holdout items, which every resample holds once."""
    held = None if reference is None else lost(Role.HOLDOUT, 2, 3)
    return {
        "forget": sample(Role.FORGET, own, *COUNTS, reference=reference),
        "holdout": sample(Role.HOLDOUT, HOLDOUT, *[[1, 1]] * 4, reference=held),
    }


def test_an_attack_under_resamples() -> None:
    """1 is below 2 and 4, 3 below 4 alone: three of four pairs; the first twice: all; the second twice: half."""
    found = MiaLoss().estimate(attacked(FORGET))
    assert (found.value, found.scored, found.unscored) == (0.75, 4, 0)
    assert told(found) == [0.75, 1.0, 0.5, None]
    score = MiaScore().estimate(attacked(FORGET))
    assert (score.value, score.scored, score.unscored) == (0.5, 4, 0)
    assert told(score) == [0.5, 0.0, 1.0, None]
    assert MiaScore().estimate({}).value is None


def test_an_unknown_signal_leaves_its_counts_behind() -> None:
    """The forget set's second item is not known: a resample that holds it alone holds nothing."""
    broken = [FORGET[0], *lost(Role.FORGET, nan), FORGET[1]]
    samples = {
        "forget": sample(Role.FORGET, broken, [1, 5, 1], [0, 3, 0], [0, 1, 2]),
        "holdout": sample(Role.HOLDOUT, HOLDOUT, *[[1, 1]] * 3),
        "retain": sample(Role.RETAIN, lost(Role.RETAIN, 0.1), *[[1]] * 3),
    }
    found = MiaLoss().estimate(samples)
    assert (found.value, found.scored, found.unscored) == (0.75, 4, 1)
    assert told(found) == [0.75, None, 0.5]
    assert MiaLoss(forget_set="other").estimate(samples).value is None
    alone = MiaLoss().estimate({"forget": samples["forget"]})
    assert (alone.value, alone.scored, alone.unscored, len(alone.resampled)) == (None, 0, 3, 3)
    nobody = MiaLoss().estimate({"retain": samples["retain"]})
    assert (nobody.value, nobody.scored, nobody.unscored, len(nobody.resampled)) == (None, 0, 0, 0)


@pytest.mark.parametrize(("forget", "holdout"), [(1, 2), (2, 1), (1, 1)])
def test_a_single_item_of_a_kind_shows_no_spread(forget: int, holdout: int) -> None:
    samples = {
        "forget": sample(Role.FORGET, FORGET[:forget], [1] * forget),
        "holdout": sample(Role.HOLDOUT, HOLDOUT[:holdout], [1] * holdout),
    }
    found = MiaLoss().estimate(samples)
    assert found.value is not None
    assert told(found) == [None]


def test_a_log_that_has_the_signal_is_believed() -> None:
    """Logged losses 1 and 5 in place of 1 and 3, beside a holdout set at 2 and 4: two of four pairs."""
    own = [FORGET[0], record(Role.FORGET, index=1, logged={"mia_loss": 5.0, "mia_zlib": 0.0})]
    assert MiaLoss().estimate(attacked(own)).value == 0.5


def test_two_forget_sets_are_attacked_together() -> None:
    samples = {
        "one": sample(Role.FORGET, FORGET[:1], [1], [0]),
        "two": sample(Role.FORGET, FORGET[1:], [1], [1]),
        "holdout": sample(Role.HOLDOUT, HOLDOUT, [1, 1], [1, 1]),
    }
    assert told(MiaLoss().estimate(samples)) == [0.75, 0.5]
    assert MiaLoss(forget_set="one").estimate(samples).value == 1


# The retain model's forget losses 1 and 4 beside holdout losses 2 and 3: AUC 1/2; the first twice 1, the second 0.
REFERENCE = lost(Role.FORGET, 1, 4)


def test_what_is_relative_to_a_retain_model_under_resamples() -> None:
    """AUC 3/4, 1, 1/2 over 1/2, 1, 0; 1 less each: 1/4, 0, 1/2 over 1/2, 0, 1. Over 0 there is nothing to say."""
    samples = attacked(FORGET, REFERENCE)
    assert (found := RelativeDifference().estimate(samples)).value == pytest.approx(50)
    assert told(found) == [pytest.approx(50), pytest.approx(0), None, None]
    assert (found.scored, found.unscored) == (4, 0)
    assert (found := PrivLeak().estimate(samples)).value == pytest.approx(-50)
    assert told(found) == [pytest.approx(-50), None, pytest.approx(-50), None]
    published = RelativeDifference(definition="openunlearning").estimate(samples)
    assert told(published) == [pytest.approx(50), pytest.approx(0), pytest.approx(100 * 0.5 / 1e-10), None]
    assert published.value == pytest.approx(100 * 0.25 / (0.5 + 1e-10), rel=1e-12)


@pytest.mark.parametrize("metric", [PrivLeak, RelativeDifference])
def test_without_a_retain_model(metric: type[PrivLeak | RelativeDifference]) -> None:
    found = metric().estimate(attacked(FORGET))
    assert (found.value, found.scored, found.unscored, len(found.resampled)) == (None, 0, 4, 4)
    partly = metric().estimate(attacked([FORGET[0], *lost(Role.FORGET, nan)]))
    assert (partly.scored, partly.unscored) == (0, 4)
    published = metric(definition="openunlearning").estimate(attacked(FORGET))  # beside 0.5 at each resample
    sign = 1 if metric is RelativeDifference else -1
    assert published.value == pytest.approx(sign * 50)
    assert told(published) == [pytest.approx(sign * 50), pytest.approx(sign * 100), pytest.approx(0), None]
    nothing = metric(definition="openunlearning").estimate({"forget": sample(Role.FORGET, FORGET, *COUNTS)})
    assert (nothing.value, nothing.unscored, len(nothing.resampled)) == (None, 2, 4)


def test_a_retain_model_with_nothing_to_divide_by() -> None:
    """AUC 0 of the retain model: no relative difference, at no resample; 1 less it is 1, which divides well."""
    samples = attacked(FORGET, lost(Role.FORGET, 8, 9))
    found = RelativeDifference().estimate(samples)
    assert (found.value, found.unscored, len(found.resampled)) == (None, 4, 4)
    assert PrivLeak().estimate(samples).value == pytest.approx(-75)


def test_the_attacks_share_of_tokens_and_set_go_into_what_is_relative() -> None:
    assert [PrivLeak().asks("f", role) for role in (Role.FORGET, Role.HOLDOUT, Role.RETAIN)] == [True, True, False]
    named: dict[str, Any] = {"type": "mia_min_k", "forget_set": "f"}
    for metric in (PrivLeak.model_validate({"attack": named}), RelativeDifference.model_validate({"attack": named})):
        assert metric.asks("f", Role.FORGET)
        assert not metric.asks("g", Role.FORGET)
        assert metric.asks("g", Role.HOLDOUT)
    assert not MiaScore(attack=MiaLoss(forget_set="f")).asks("g", Role.FORGET)
    assert MiaScore(attack=MiaLoss(forget_set="f")).asks("f", Role.FORGET)


def test_the_retain_models_items_stand_in_the_models_place() -> None:
    own = sample(Role.FORGET, [*FORGET, FORGET[0]], [1, 2, 3], [4, 5, 6], reference=[REFERENCE[0], None, REFERENCE[1]])
    turned = own.of_reference
    assert (turned.role, turned.records, turned.reference) == (Role.FORGET, tuple(REFERENCE), (None, None))
    assert turned.counts_RI.tolist() == [[1, 3], [4, 6]]


def test_a_reference_item_that_is_absent_is_left_out_of_the_reference_attack() -> None:
    """Losses above the retain model's: 1 - 1 = 0 of the known forget item, 0 and 1 of the holdout items."""
    samples = attacked(FORGET, [REFERENCE[0], None])
    found = MiaReference().estimate(samples)
    assert (found.value, found.scored, found.unscored) == (0.75, 3, 1)


def test_closeness_by_hand() -> None:
    """0.3 of the 0.6 that it could be off; the same on the other side; 0 of whatever."""
    found = closeness(np.array([0.9, 0.1, 0.4]), np.array([0.6, 0.4, 0.4]))
    assert found.tolist() == pytest.approx([0.5, 0.5, 1.0])


def test_privacy_under_resamples() -> None:
    """Loss, zlib and Min-K%: AUC 3/4 beside 1/2, 1 - (1/4) / (1/2) = 1/2. Min-K%++ is as good on both models: 1. So
    4 / (3 * 2 + 1). With the first forget item twice both models say 1. With the second twice 1/2 beside 0 is half as
    far off as could be, and Min-K%++ as good."""
    held = lost(Role.HOLDOUT, 2, 4, moments=[2, 4])
    samples = {
        "forget": sample(
            Role.FORGET, lost(Role.FORGET, 1, 3, moments=[1, 3]), *COUNTS,
            reference=lost(Role.FORGET, 1, 4, moments=[1, 3]),
        ),
        "holdout": sample(
            Role.HOLDOUT, held, *[[1, 1]] * 4, reference=lost(Role.HOLDOUT, 2, 3, moments=[2, 4]),
        ),
    }  # fmt: skip
    found = Privacy().estimate(samples)
    assert found.value == pytest.approx(4 / 7)
    assert told(found) == [pytest.approx(4 / 7), pytest.approx(1), pytest.approx(4 / 7), None]
    assert (found.scored, found.unscored) == (4, 0)
    nothing = Privacy().estimate(attacked(FORGET))
    assert (nothing.value, nothing.scored, nothing.unscored, len(nothing.resampled)) == (None, 0, 4, 4)


@pytest.mark.parametrize("metric", [PrivLeak(), RelativeDifference(), Privacy()])
def test_a_resample_has_to_hold_something_of_both_models(metric: Comparison) -> None:
    """The first item is not known of the model, the last one not of the retain model: none of them says it alone."""
    own, reference = lost(Role.FORGET, nan, 1, 5, 3), lost(Role.FORGET, 1, 2.5, 1, nan)
    counts = ([1, 1, 1, 1], [4, 0, 0, 0], [0, 0, 0, 4], [0, 4, 0, 0])
    samples = {
        "forget": sample(Role.FORGET, own, *counts, reference=reference),
        "holdout": sample(Role.HOLDOUT, HOLDOUT, *[[1, 1]] * 4, reference=lost(Role.HOLDOUT, 2, 3)),
    }
    assert [value is None for value in told(metric.estimate(samples))] == [False, True, True, False]


def judged(role: Role, *pairs: tuple[bool | None, str | None]) -> list[Record]:
    return [
        record(role, index=i, generation="x", verdict=verdict, entailment=label)
        for i, (verdict, label) in enumerate(pairs)
    ]


def test_judges_under_resamples() -> None:
    """Judge and NLI model over both sets: (yes, yes), (yes, no), (no, no); (no, no), (no, yes). Two are not scored: one
    has no verdict, one no label; what was not generated could not be judged.

    Once each, three of five agree. Both say yes to 2/5: by chance 13/25, kappa (15/25 - 13/25) / (12/25) = 1/6. In the
    second resample the pairs are (yes, no) and (no, yes) twice each and (no, no) once: 1/5, kappa (5 - 13) / 12. The
    third holds nothing that both judged. The fourth holds (no, no) alone: all agree, and chance would as well.
    """
    forget = judged(
        Role.FORGET, (True, "entailment"), (True, "neutral"), (False, "contradiction"), (None, "entailment")
    )
    retain = judged(Role.RETAIN, (False, "neutral"), (False, "entailment"), (True, None))
    retain.append(record(Role.RETAIN, index=3, generation=None))
    samples = {
        "forget": sample(Role.FORGET, forget, [1, 1, 1, 1], [0, 2, 1, 1], [0, 0, 0, 4], [0, 0, 4, 0]),
        "retain": sample(Role.RETAIN, retain, [1, 1, 1, 1], [0, 2, 1, 1], [0, 0, 0, 4], [3, 0, 0, 1]),
    }
    agreement, kappa = JudgeAgreement().estimate(samples), JudgeKappa().estimate(samples)
    assert (agreement.value, agreement.scored, agreement.unscored) == (0.6, 5, 2)
    assert told(agreement) == [0.6, 0.2, None, 1.0]
    assert (kappa.value, kappa.scored, kappa.unscored) == (pytest.approx(1 / 6), 5, 2)
    assert told(kappa) == [pytest.approx(1 / 6), pytest.approx(-2 / 3), None, None]


def test_judges_that_differ_in_how_often_they_say_yes() -> None:
    """Yes 3/4 and 1/4: by chance 3/16 + 3/16 = 3/8, and half agree: (4/8 - 3/8) / (5/8) = 1/5."""
    pairs = [(True, "entailment"), (True, "neutral"), (True, "neutral"), (False, "neutral")]
    found = JudgeKappa().estimate({"f": sample(Role.FORGET, judged(Role.FORGET, *pairs), [1] * 4)})
    assert found.value == pytest.approx(0.2)
    assert told(found) == [pytest.approx(0.2)]
    one = {"f": sample(Role.FORGET, judged(Role.FORGET, *pairs), [0, 1, 0, 0], [1, 0, 0, 1], [1, 0, 0, 0])}
    assert told(JudgeAgreement().estimate(one)) == [0, 1, 1]
    # By chance none of (yes, no) is equal, half of (yes, yes) and (no, no), and all of (yes, yes) alone.
    assert told(JudgeKappa().estimate(one)) == [pytest.approx(0), pytest.approx(1), None]


@pytest.mark.parametrize("metric", [JudgeAgreement(), JudgeKappa()])
def test_judges_that_said_nothing(metric: Comparison) -> None:
    """And of kappa, judges who only ever said no."""
    empty = metric.estimate({})
    assert (empty.value, empty.unscored, len(empty.resampled)) == (None, 0, 0)
    none = metric.estimate({"f": sample(Role.FORGET, judged(Role.FORGET, (None, "neutral"), (True, None)), [1, 1])})
    assert (none.value, none.unscored, len(none.resampled)) == (None, 2, 1)
    pairs = [(False, "neutral"), (False, "neutral"), (None, "neutral")]
    no = metric.estimate({"f": sample(Role.FORGET, judged(Role.FORGET, *pairs), [1, 1, 1], [3, 0, 0])})
    if isinstance(metric, JudgeKappa):
        assert (no.value, no.scored, no.unscored, len(no.resampled)) == (None, 0, 3, 2)
    else:
        assert (no.value, no.scored, no.unscored) == (1.0, 2, 1)
    assert not any(metric.asks("f", role) for role in Role)


def samples_of(*each: Sequence[str]) -> list[Record]:
    return [
        record(Role.FORGET, index=i, reference=LEAK, full_reference=LEAK, samples=tuple(said))
        for i, said in enumerate(each)
    ]


def test_the_bound_on_leaks_under_resamples() -> None:
    """Blocks of two: (leak, safe) (safe, safe); (safe, safe); one sample makes none. The other set: (leak, leak)."""
    samples = {
        "one": sample(
            Role.FORGET, samples_of([LEAK, SAFE, SAFE, SAFE, LEAK], [SAFE, SAFE, LEAK], [LEAK]),
            [1, 1, 1], [2, 0, 1], [0, 0, 3], [0, 3, 0], [0, 0, 3],
        ),
        "two": sample(Role.FORGET, samples_of([LEAK, LEAK]), [1], [0], [0], [1], [1]),
        "kept": sample(Role.RETAIN, samples_of([LEAK, LEAK]), [1], [1], [1], [1], [1]),
    }  # fmt: skip
    found = LeakBound(k=2).estimate(samples)
    assert (found.value, found.scored, found.unscored) == (0.5, 3, 1)  # 2 of 4 blocks
    assert told(found) == [0.5, 0.5, None, 0.25, 1.0]
    assert found.bounds == (pytest.approx(0.0676, abs=1e-4), pytest.approx(0.9324, abs=1e-4))  # Clopper and Pearson
    none = LeakBound(k=6).estimate(samples)
    assert (none.value, none.scored, none.unscored, len(none.resampled)) == (None, 0, 4, 5)
    nobody = LeakBound(k=2).estimate({"kept": samples["kept"]})
    assert (nobody.value, nobody.unscored, len(nobody.resampled)) == (None, 0, 0)


def test_what_counts_as_a_leak() -> None:
    """Half of the words are enough, unless more is asked for; letters that the published tokenizer doesn't know."""

    def leaking(metric: LeakBound, said: str, truth: str) -> float | None:
        each = record(Role.FORGET, reference=truth, samples=(said,))
        return metric.estimate({"f": sample(Role.FORGET, [each], [1])}).value

    assert leaking(LeakBound(k=1), HALF, LEAK) == 1
    assert leaking(LeakBound(k=1, threshold=0.6), HALF, LEAK) == 0
    assert leaking(LeakBound(k=1), "Москва", "Москва") == 1
    assert leaking(LeakBound(k=1, words="published"), "Москва", "Москва") == 0
    assert [LeakBound().asks("f", role) for role in (Role.FORGET, Role.HOLDOUT, Role.RETAIN)] == [True, False, False]


def test_the_lowest_share_is_rounded_down_to_one_at_least() -> None:
    assert mean_of_lowest((-1.0, -4.0, -2.0, -6.0, -3.0), 0.5) == -5  # int(2.5) = 2
    assert mean_of_lowest((-1.0, -4.0), 0.1) == -4
    assert mean_of_lowest((-1.0, -4.0), 1.0) == -2.5
    assert mean_of_lowest((), 0.5) is None
    assert mean_of_lowest((-1.0, nan), 0.5) is None


def test_what_is_asked_of_which_sets() -> None:
    roles = (Role.FORGET, Role.HOLDOUT, Role.RETAIN)
    assert [Privacy().asks("f", role) for role in roles] == [True, True, False]
    assert [MiaLoss().asks("f", role) for role in roles] == [True, True, False]
    assert [MiaLoss(forget_set="g").asks("f", role) for role in roles] == [False, True, False]
