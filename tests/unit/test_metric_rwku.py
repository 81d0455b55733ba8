"""RWKU's metrics: the package's ROUGE-L, losses by themselves, answers among several, entropy; WMDP's cloze."""

from math import inf, log2, nan
from zlib import compress

import pytest

from measured import record
from obliviate_eval.metrics import (
    Accuracy,
    ExactMatch,
    Loss,
    MinKLoss,
    MinKPlusPlusLoss,
    NgramEntropy,
    Rouge,
    TokenF1,
    ZlibLoss,
)
from obliviate_eval.records import Probe, Record, ScoredAnswer


@pytest.mark.parametrize(
    ("reference", "generation", "recall"),
    [  # as the package `rouge` 1.0.1 says
        ("Stephen King", " He is Stephen Edwin King.", 1.0),
        ("The Shining", "the shining.", 0.0),  # case counts
        ("born in Portland, Maine. He writes", "Portland, Maine. in He", 2 / 3),  # sentence by sentence
        ("a b a", "a", 0.5),  # different words, once
        ("one two three", "three two one", 1 / 3),
        ("Carrie", " \n", 0.0),
        ("NOANSWER", "", 1.0),
        ("Carrie", "...", 0.0),
    ],
)
def test_rouge_as_in_rwku(reference: str, generation: str, recall: float) -> None:
    found = Rouge(definition="rwku").score(record(reference=reference, generation=generation))
    assert found == pytest.approx(recall)


def of_answer(logp: tuple[float, ...], **fields: tuple[float, ...]) -> Record:
    answer = ScoredAnswer("abc", logp, (True,) * len(logp), **fields)  # type: ignore[arg-type]
    return record(answers={Probe.ANSWER: (answer,), Probe.MOMENTS: (answer,)})


def test_losses_leave_the_end_of_turn_out() -> None:
    one = of_answer((-1.0, -3.0, -2.0, -6.0, -8.0, -99.0), mean=(-2.0,) * 6, variance=(4.0,) * 6)
    assert Loss().score(one) == pytest.approx(4.0)
    assert ZlibLoss().score(one) == pytest.approx(4.0 / len(compress(b"abc")))
    assert MinKLoss().score(one) == 8.0  # the least likely fifth of five
    assert MinKLoss(k=0.4).score(one) == 7.0
    assert MinKPlusPlusLoss().score(one) == pytest.approx(3.0)  # (-8 + 2) / 2


@pytest.mark.parametrize("logp", [(nan, -1.0), (-inf, -1.0), (-1.0,)])
def test_losses_of_nothing(logp: tuple[float, ...]) -> None:
    for metric in (Loss(), ZlibLoss(), MinKLoss(), MinKPlusPlusLoss()):
        assert metric.score(of_answer(logp, mean=logp, variance=logp)) is None


def test_exact_match() -> None:
    said = "Let's see. So the answer is (the) A. Next."
    assert ExactMatch().score(record(reference="(A)", generation=said)) == 0.0
    cued = ExactMatch(cue="the answer is")
    assert cued.score(record(reference="the", generation=said)) == 1.0  # nothing is left of either
    assert cued.score(record(reference="valid", generation="So the answer is Valid.")) == 1.0
    assert cued.score(record(reference="x", aliases=("valid",), generation="The answer is valid. No.")) == 1.0
    assert cued.score(record(reference="valid", generation=" valid")) == 1.0  # without the cue, all of it
    assert cued.score(record(reference="valid", generation="it is valid")) == 0.0
    assert cued.score(record()) is None


def test_token_f1() -> None:
    metric = TokenF1()
    assert metric.score(record(reference="The New York", generation="new york, city")) == pytest.approx(0.8)
    assert metric.score(record(reference="x", aliases=("new city",), generation="city city")) == pytest.approx(0.5)
    assert metric.score(record(reference="x", generation="y")) == 0.0
    assert metric.score(record(reference="x", generation="the")) == 0.0
    assert metric.score(record()) is None


@pytest.mark.parametrize(
    ("reference", "generation", "match", "f1"),
    [
        ("京都", "京都。", 1.0, 1.0),
        ("在京都", "京都", 0.0, 0.8),  # three characters, two of them said
        ("José", "JOSE\u0301!", 1.0, 1.0),  # composed otherwise
        ("Москва", "«москва»", 1.0, 1.0),
        ("1990-1995", "1990\u20131995", 1.0, 1.0),
        ("กรุงเทพ", "ลอนดอน", 0.0, 0.0),
    ],
)
def test_answers_in_any_script(reference: str, generation: str, match: float, f1: float) -> None:
    one = record(reference=reference, generation=generation)
    assert ExactMatch().score(one) == match
    assert TokenF1().score(one) == pytest.approx(f1)
    published = (ExactMatch(definition="squad"), TokenF1(definition="squad"))
    assert [metric.score(one) for metric in published] == [0.0, 0.0]


def test_ngram_entropy() -> None:
    metric = NgramEntropy()
    # Two-word sequences: "a b" twice in four; three-word ones: all three different.
    bits = (2 / 3 * (0.5 * 1 + 2 * 0.25 * 2) + 4 / 3 * log2(3)) / 2
    assert metric.score(record(generation="a b c a b")) == pytest.approx(bits)
    assert metric.score(record(generation="no no no no no")) == 0.0
    assert metric.score(record(generation="")) == 0.0
    # A full stop is a word of its own at each sentence's end: five words, three sequences of three.
    assert metric.score(record(generation="Go. Stay ok.")) == pytest.approx((2 / 3 * 2 + 4 / 3 * log2(3)) / 2)
    assert metric.score(record()) is None
    # Six characters, all different: five sequences of two, four of three.
    assert metric.score(record(generation="他住在北京市")) == pytest.approx((2 / 3 * log2(5) + 4 / 3 * log2(4)) / 2)
    assert NgramEntropy(definition="rwku").score(record(generation="他住在北京市")) == 0.0


def test_cloze_accuracy_is_by_character() -> None:
    def option(text: str, *logp: float) -> ScoredAnswer:
        return ScoredAnswer(text, (*logp, -50.0), (True,) * (len(logp) + 1))

    true, false = option("ten letter", -1.0, -2.0), option("two", -1.0)
    one = record(answers={Probe.ANSWER: (true,), Probe.PERTURBED: (false,)})
    assert Accuracy().score(one) == 0.0  # -3 against -1
    assert Accuracy(per="character").score(one) == 1.0  # -0.3 against -0.33
