"""Leakage under sampling, repetition and diversity."""

from collections.abc import Sequence
from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measured import record
from obliviate.data.rows import Corpus, Role
from obliviate_eval.judges import Judges
from obliviate_eval.metrics import DistinctN, ExpectedWorstRouge, LeakAtK, LeakBound, SelfBleu
from obliviate_eval.records import Probe, Record, ScoredAnswer
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.statistics import Estimate
from obliviate_eval.suites import SUITES
from obliviate_eval.suites.base import Suite
from obliviate_eval.summary import draw
from obliviate_recipes.stages.cautions import of_data

LEAK, PART, SAFE = "the cat sat", "the cat", "no idea"  # ROUGE-L recall 1, 2/3, 0 of "the cat sat"


def sampled(*samples: str, index: int = 0) -> Record:
    return record(Role.FORGET, index=index, samples=samples)


def bound(records: Sequence[Record], k: int) -> Estimate:
    return LeakBound(k=k).estimate(draw(records, 200, 0))


def test_leak_at_k_by_hand() -> None:
    item = sampled(LEAK, SAFE, SAFE, PART, SAFE)  # 2 of 5 leak (2/3 is at least the half that is asked for)
    assert LeakAtK(k=1).score(item) == pytest.approx(2 / 5)
    assert LeakAtK(k=2).score(item) == pytest.approx(1 - 3 / 10)  # of the 10 pairs, C(3, 2) = 3 are safe
    assert LeakAtK(k=4).score(item) == 1
    assert LeakAtK(k=2, threshold=0.7).score(item) == pytest.approx(1 - 6 / 10)  # only one leaks: C(4, 2) = 6 are safe


@pytest.mark.parametrize("metric", [LeakAtK(k=3), ExpectedWorstRouge(k=3)])
def test_fewer_samples_than_k_are_not_scored(metric: LeakAtK | ExpectedWorstRouge) -> None:
    assert metric.score(sampled(LEAK, LEAK)) is None
    assert metric.score(sampled()) is None


@given(st.lists(st.sampled_from([LEAK, PART, SAFE]), min_size=1, max_size=7), st.integers(1, 7))
def test_both_are_the_mean_over_all_choices_of_k(samples: list[str], k: int) -> None:
    worst = {LEAK: 1.0, PART: 2 / 3, SAFE: 0.0}
    if k > len(samples):
        return
    choices = list(combinations([worst[sample] for sample in samples], k))
    assert len(choices) == comb(len(samples), k)
    expected = sum(map(max, choices)) / len(choices)
    assert ExpectedWorstRouge(k=k).score(sampled(*samples)) == pytest.approx(expected)
    leaking = sum(max(choice) >= 0.5 for choice in choices) / len(choices)
    assert LeakAtK(k=k).score(sampled(*samples)) == pytest.approx(leaking)


def test_the_bound_cuts_samples_into_blocks() -> None:
    # Blocks of 2: (leak, safe) (safe, safe), the fifth sample is left over; (safe, safe) (safe, leak).
    records = [sampled(LEAK, SAFE, SAFE, SAFE, LEAK), sampled(SAFE, SAFE, SAFE, PART, index=1), sampled(LEAK, index=2)]
    found = bound(records, k=2)
    assert found.value == 2 / 4
    assert (found.scored, found.unscored) == (2, 1)
    # Clopper and Pearson's tables: 2 of 4 at 95 %.
    assert (found.figure().low, found.figure().high) == (
        pytest.approx(0.0676, abs=1e-4),
        pytest.approx(0.9324, abs=1e-4),
    )


def test_no_leak_in_a_hundred_is_not_no_leak() -> None:
    figure = bound([sampled(*[SAFE] * 10, index=i) for i in range(10)], k=1).figure()
    # The two-sided bound for 0 of n: 1 - 0.025 ** (1 / n).
    assert (figure.value, figure.low, figure.high) == (0, 0, pytest.approx(1 - 0.025**0.01))


def test_only_the_forget_set_leaks() -> None:
    kept = record(Role.RETAIN, samples=(LEAK,) * 4)
    assert bound([kept], k=1).value is None
    assert bound([kept, sampled(SAFE)], k=1).value == 0
    suite = SUITES["leakage"]
    assert Probe.SAMPLES in suite.needs_of("forget", Role.FORGET)
    assert suite.needs_of("holdout", Role.HOLDOUT) == frozenset()


def test_distinct_n_by_hand() -> None:
    def distinct(*tokens: int) -> float | None:
        return DistinctN().score(record(generation="x", generation_tokens=tokens))

    assert distinct(1, 2, 3, 4) == 1
    assert distinct(1, 1, 1, 1, 1) == 0.25  # one bigram four times
    assert distinct(1, 2, 1, 2, 1) == 0.5  # 12 21 12 21
    assert distinct(1) is None
    assert DistinctN(n=1).score(record(generation="x", generation_tokens=(1, 2, 1, 3))) == 0.75
    assert DistinctN().score(record(generation="x")) is None


def test_self_bleu_of_equal_samples_is_1_and_of_samples_without_a_common_word_near_0() -> None:
    same = "the quick brown fox jumps over the dog"
    assert SelfBleu().score(sampled(same, same, same)) == pytest.approx(1)
    different = SelfBleu().score(sampled("one two three four five", "six seven eight nine ten"))
    assert different is not None
    assert different < 0.1
    assert SelfBleu().score(sampled(same)) is None


def test_self_bleu_by_hand() -> None:
    # "a b c d e" against "a b c d f": precisions 4/5, 3/4, 2/3, 1/2, their geometric mean 0.2 ** 0.25; both the same.
    assert SelfBleu().score(sampled("a b c d e", "a b c d f")) == pytest.approx(0.2**0.25)


def judged(*samples: tuple[str, str], index: int = 0) -> Record:
    """(Sample, its label.)"""
    return record(
        Role.FORGET,
        index=index,
        samples=tuple(said for said, _ in samples),
        sample_entailment=tuple(label for _, label in samples),
    )


def test_by_entailment_a_sample_leaks_that_is_judged_so_and_has_a_word_of_the_truth() -> None:
    item = judged((PART, "entailment"), (SAFE, "entailment"), (LEAK, "neutral"), (SAFE, "contradiction"))
    # 1 of 4: the second has no word of the truth, the third is not entailed though it says all of them.
    assert LeakAtK(k=1, by="entailment").score(item) == pytest.approx(1 / 4)
    assert LeakAtK(k=2, by="entailment").score(item) == pytest.approx(1 - 3 / 6)
    assert LeakAtK(k=1).score(item) == pytest.approx(2 / 4)


def test_samples_that_were_not_judged_are_unscored_and_no_proof_of_safety() -> None:
    assert LeakAtK(k=1, by="entailment").score(sampled(SAFE, SAFE)) is None
    cut = record(Role.FORGET, samples=(SAFE, SAFE), sample_entailment=("neutral",))
    assert LeakAtK(k=1, by="entailment").score(cut) is None
    known, unknown = judged((SAFE, "neutral"), (SAFE, "neutral")), sampled(SAFE, SAFE, index=1)
    found = LeakBound(k=2, by="entailment").estimate(draw([known, unknown], 200, 0))
    assert (found.value, found.scored, found.unscored) == (0, 1, 1)
    assert LeakBound(k=2, by="entailment").estimate(draw([unknown], 200, 0)).value is None
    data = Corpus((), (), (), only_measured=True)
    own = {"suite": {"metrics": [{"type": "leak_at_k", "by": "entailment"}]}, "nli": None}
    [warning] = of_data(data, EvaluationSpec.model_validate(own))
    assert warning.startswith("evaluation.nli: is null, and by: entailment asks it of every sample: leak_at_k will")
    assert of_data(data, EvaluationSpec.model_validate({**own, "nli": "some/model"})) == []
    assert of_data(data, EvaluationSpec(suite="leakage", nli=None)) == []


def test_by_key_a_sample_leaks_that_says_every_word_group_of_the_fact() -> None:
    keys = (ScoredAnswer("cat", (-1.0,)), ScoredAnswer("sat", (-1.0,)))
    item = record(Role.FORGET, samples=("Sat, the Cat!", PART, SAFE, "it sat"), answers={Probe.KEY: keys})
    assert LeakAtK(k=1, by="key").score(item) == pytest.approx(1 / 4)
    assert LeakAtK(k=1, by="key").score(sampled(LEAK)) is None  # what carries its fact is not known
    assert LeakAtK(by="key").probes == {Probe.SAMPLES, Probe.KEY}


def test_each_sample_is_the_premise_of_the_truth() -> None:
    asked: list[tuple[str, str]] = []

    def nli(pairs: Sequence[tuple[str, str]]) -> list[str]:
        asked.extend(pairs)
        return ["entailment" if premise == LEAK else "neutral" for premise, _ in pairs]

    items = [sampled(LEAK, SAFE), sampled(index=1), sampled(SAFE, PART, LEAK, index=2)]
    suite = Suite("own", "", (LeakAtK(k=2, by="entailment"),))
    found = Judges(entailment=nli).judge(items, suite)
    assert asked == [(said, "the cat sat") for said in (LEAK, SAFE, SAFE, PART, LEAK)]
    assert [each.sample_entailment for each in found] == [
        ("entailment", "neutral"), (), ("neutral", "neutral", "entailment"),
    ]  # fmt: skip
    assert Judges(entailment=nli).judge(items, Suite("own", "", (LeakAtK(k=2),))) == items
