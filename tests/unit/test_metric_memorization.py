"""Extraction strength, exact memorisation, the probabilities beside the truth ratio, fluency, and MUSE's two."""

from math import exp, inf, log, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measured import answers, record, scored
from obliviate.data.rows import Role
from obliviate_eval.metrics import (
    Accuracy,
    ExactMemorization,
    ExtentOfKnowledge,
    ExtractionStrength,
    Fluency,
    KnowledgeMemorization,
    ParaphrasedProbability,
    Probability,
    TruthRatio,
    VerbatimMemorization,
)
from obliviate_eval.records import Probe, Record, ScoredAnswer

OPENUNLEARNING = ExtractionStrength(definition="openunlearning")


def greedy(*right: bool, end: bool = True) -> Record:
    """A record whose answer has these tokens, and an end of turn."""
    tokens = (*right, end)
    return record(answers={Probe.ANSWER: (ScoredAnswer("", (-1.0,) * len(tokens), tokens),)})


@pytest.mark.parametrize(
    ("right", "expected", "published"),
    [
        ((False, True, True, True), 0.75, 0.75),  # the first token brings back the other three
        ((True, False, True, False, True), 0.2, 0.2),  # only the last one follows from what stands before it
        ((True, True, True), 1.0, 1.0),
        ((True, True, True, False), 0.0, 0.25),  # the last token is wrong: the published search stops one short
        ((False,), 0.0, 1.0),
    ],
)
def test_extraction_strength_by_hand(right: tuple[bool, ...], expected: float, published: float) -> None:
    assert ExtractionStrength().score(greedy(*right)) == pytest.approx(expected)
    assert OPENUNLEARNING.score(greedy(*right)) == pytest.approx(published)
    assert ExtractionStrength().score(greedy(*right, end=False)) == pytest.approx(expected)  # the end is left out


def test_exact_memorization_is_the_share_of_right_tokens() -> None:
    assert ExactMemorization().score(greedy(True, False, True, True)) == 0.75
    assert ExactMemorization().score(greedy(False, end=True)) == 0


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_extraction_strength_is_at_most_exact_memorization(right: list[bool]) -> None:
    strength, memory = ExtractionStrength().score(greedy(*right)), ExactMemorization().score(greedy(*right))
    assert strength is not None
    assert memory is not None
    assert 0 <= strength <= memory <= 1
    assert (strength == 1) == (memory == 1)


@pytest.mark.parametrize("metric", [ExtractionStrength(), OPENUNLEARNING, ExactMemorization()])
@pytest.mark.parametrize(
    "answer",
    [
        ScoredAnswer("", (-1.0,), (True,)),  # nothing but the end of turn
        ScoredAnswer("", (-1.0, -1.0)),  # an imported log: the tokens are not known one by one
        ScoredAnswer("", (nan, -1.0, -1.0), (False, True, True)),  # a collapsed model's argmax says nothing
    ],
)
def test_unknown_tokens_are_not_scored(metric: ExtractionStrength | ExactMemorization, answer: ScoredAnswer) -> None:
    assert metric.score(record(answers={Probe.ANSWER: (answer,)})) is None
    assert metric.score(record()) is None


def test_paraphrased_probability() -> None:
    assert ParaphrasedProbability().score(scored(Role.FORGET, log(0.25), [])) == pytest.approx(0.25)
    assert ParaphrasedProbability().score(scored(Role.WORLD_FACTS, log(0.25), [])) is None  # has no paraphrase
    assert ParaphrasedProbability().score(scored(Role.FORGET, nan, [])) is None
    assert ParaphrasedProbability().score(record(Role.FORGET)) is None


def test_extent_of_knowledge_by_hand() -> None:
    # Right 0.3, wrong 0.2 and 0.05 with geometric mean 0.1: 0.3 / 0.4.
    item = scored(Role.FORGET, log(0.3), [log(0.2), log(0.05)])
    assert ExtentOfKnowledge().score(item) == pytest.approx(0.75)
    published = ExtentOfKnowledge(definition="openunlearning").score(item)
    assert published == pytest.approx(0.3 / (0.4 + 1e-10), rel=1e-14)
    assert published != 0.75
    assert ExtentOfKnowledge().score(record()) is None
    assert ExtentOfKnowledge(definition="openunlearning").score(record()) is None


def test_a_model_far_from_language_still_has_an_extent_of_knowledge_and_the_published_code_says_0() -> None:
    item = scored(Role.FORGET, -800.0, [-900.0])  # both probabilities underflow
    assert ExtentOfKnowledge().score(item) == 1
    assert ExtentOfKnowledge(definition="openunlearning").score(item) == 0


@given(st.floats(-900, 0), st.floats(-900, 0))
def test_extent_of_knowledge_of_swapped_answers_adds_up_to_1(right: float, wrong: float) -> None:
    one = ExtentOfKnowledge().score(scored(Role.FORGET, right, [wrong]))
    other = ExtentOfKnowledge().score(scored(Role.FORGET, wrong, [right]))
    assert one is not None
    assert other is not None
    assert one + other == pytest.approx(1, abs=1e-12)


def test_openunlearnings_truth_ratio_by_hand() -> None:
    metric = TruthRatio(definition="openunlearning")
    # Right 0.4, wrong 0.1: R = 0.25 (less some 1e-10). Kept: 1 - R. Forget: min(R, 1 / R).
    assert metric.score(scored(Role.RETAIN, log(0.4), [log(0.1)])) == pytest.approx(0.75, abs=1e-9)
    assert metric.score(scored(Role.FORGET, log(0.4), [log(0.1)])) == pytest.approx(0.1 / (0.4 + 1e-10), rel=1e-14)
    assert metric.score(scored(Role.FORGET, log(0.1), [log(0.4)])) == pytest.approx(0.25, abs=1e-8)
    # Collapsed: 1e-10 stands for a probability of e^-800, and the ratio of e^-50 to it is what is left.
    collapsed = scored(Role.FORGET, -800.0, [-50.0])
    assert metric.score(collapsed) == pytest.approx(exp(-50) / 1e-10)
    assert TruthRatio(definition="tofu").score(collapsed) == pytest.approx(exp(-750))
    assert metric.score(record(Role.FORGET)) is None


def test_openunlearnings_probability_share() -> None:
    metric = Probability(definition="openunlearning")
    underflowing = scored(Role.REAL_AUTHORS, -800.0, [-900.0])
    assert (metric.score(underflowing), Probability().score(underflowing)) == (0.0, None)
    item = scored(Role.REAL_AUTHORS, log(0.3), [log(0.1)])
    assert metric.score(item) == pytest.approx(0.3 / (0.4 + 1e-10), rel=1e-14)
    assert metric.score(scored(Role.FORGET, log(0.3), [])) == pytest.approx(0.3, rel=1e-14)


def test_fluency_is_the_classifiers_word() -> None:
    assert Fluency().score(record(generation="x", fluency=0.25)) == 0.25
    assert Fluency().score(record(generation="x")) is None


def test_verbatim_memorization_by_hand() -> None:
    # "the cat" of "the cat sat": recall 2/3, precision 1, F1 = 2 * (2/3) / (5/3) = 0.8.
    assert VerbatimMemorization().score(record(generation="the cat")) == pytest.approx(0.8)
    assert VerbatimMemorization().score(record(generation=None)) is None
    # "sits" and "sitting" have one stem: only OpenUnlearning's code takes them for the same.
    stemmed = record(reference="sitting", generation="sits")
    assert VerbatimMemorization().score(stemmed) == 0
    assert VerbatimMemorization(definition="openunlearning").score(stemmed) == 1


@pytest.mark.parametrize("after", ["\n\nQuestion: Who else?", "\nQuestion: Who else?", " Question: Who else?"])
def test_knowledge_memorization_ends_where_the_next_question_begins(after: str) -> None:
    assert KnowledgeMemorization().score(record(generation=f" the cat sat{after}")) == 1
    assert VerbatimMemorization().score(record(generation=f" the cat sat{after}")) != 1
    assert KnowledgeMemorization().score(record(generation=None)) is None
    assert KnowledgeMemorization().score(record(generation="\n\nthe cat sat")) == 0  # silence first


def option(*logps: float) -> tuple[ScoredAnswer, ...]:
    """Options of one token each, followed by an end of turn that must not count."""
    return tuple(ScoredAnswer("", (logp, -9.0 * i), (False, False)) for i, logp in enumerate(logps))


def test_accuracy_by_hand() -> None:
    def accuracy(true: float, *false: float) -> float | None:
        return Accuracy().score(record(answers={Probe.ANSWER: option(true), Probe.PERTURBED: option(*false)}))

    assert accuracy(-1.0, -2.0, -3.0, -4.0) == 1
    assert accuracy(-2.0, -1.0, -3.0, -4.0) == 0
    assert accuracy(-1.0, -1.0, -3.0, -4.0) == 0.5  # two are the likeliest
    assert accuracy(-1.0, nan, -3.0) is None
    assert accuracy(-1.0, -inf, -3.0) is None
    assert accuracy(-1.0) is None  # no other options
    assert Accuracy().score(record()) is None


def test_accuracy_sums_over_an_options_tokens() -> None:
    # -0.4 a token, three tokens: less likely than one token of -1, though more likely per token.
    true = ScoredAnswer("", (-1.0, 0.0), (True, True))
    false = ScoredAnswer("", (-0.4, -0.4, -0.4, 0.0), (True,) * 4)
    assert Accuracy().score(record(answers={Probe.ANSWER: (true,), Probe.PERTURBED: (false,)})) == 1
    assert Probability().score(record(Role.FORGET, answers={Probe.ANSWER: answers(-1.0)})) == pytest.approx(exp(-1))


def test_of_an_answer_that_was_cut_the_last_token_is_its_own() -> None:
    """Four tokens, the last one wrong: it counts where the answer was cut, and is the end of turn where it was not."""
    logp, greedy = (-0.1,) * 4, (True, True, True, False)
    whole = record(answers={Probe.ANSWER: (ScoredAnswer("a", logp, greedy),)})
    cut = record(answers={Probe.ANSWER: (ScoredAnswer("a", logp, greedy, cut=True),)})
    assert (ExactMemorization().score(whole), ExactMemorization().score(cut)) == (1, 3 / 4)
    assert (ExtractionStrength().score(whole), ExtractionStrength().score(cut)) == (1, 0)
