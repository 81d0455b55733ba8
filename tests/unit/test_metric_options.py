"""What a metric's options change, where others' tests look at the defaults; what a log says; and edges of words."""

from dataclasses import replace
from math import exp, log2, nan
from typing import Any
from zlib import compress

import pytest

from measured import record
from obliviate.data.rows import Role
from obliviate_eval.metrics import (
    Accuracy,
    DistinctN,
    ExactMatch,
    ExpectedWorstRouge,
    HitRate,
    KeyProbability,
    KeySaid,
    KnowledgeMemorization,
    LeakAtK,
    Loss,
    MeanReciprocalRank,
    Metric,
    MiaLoss,
    MinKLoss,
    MinKPlusPlusLoss,
    NgramEntropy,
    Rouge,
    Rouge1,
    RougeF1,
    SelfBleu,
    TokenEntropy,
    TokenF1,
    VerbatimMemorization,
    ZlibLoss,
)
from obliviate_eval.records import Probe, ScoredAnswer

RUSSIAN: dict[str, Any] = {"reference": "она живёт", "generation": "она живёт", "samples": ("она живёт",) * 4}


@pytest.mark.parametrize(
    "metric",
    [Rouge, Rouge1, RougeF1, VerbatimMemorization, KnowledgeMemorization, LeakAtK, ExpectedWorstRouge],
)
def test_the_published_tokenizer_knows_no_other_letters(metric: type[Any]) -> None:
    assert metric().score(record(**RUSSIAN)) == 1
    assert metric(words="published").score(record(**RUSSIAN)) == 0


def test_a_log_that_has_the_score_is_believed() -> None:
    assert Rouge().of(record(generation="the cat sat")) == 1
    assert Rouge().of(record(generation="the cat sat", logged={"rouge": 0.25, "loss": 9.0})) == 0.25


def test_rouge_stems_and_takes_recall_and_f1_for_what_they_are() -> None:
    """Of "cats" and "cat" one stem is left. Two of three words are said, among four: recall 2/3, F1 2 * 2 / (3 + 4)."""
    said = record(reference="the cats sat", generation="the cat ran away")
    assert Rouge().score(said) == pytest.approx(2 / 3)
    assert VerbatimMemorization(definition="openunlearning").score(said) == pytest.approx(4 / 7)
    assert VerbatimMemorization().score(said) == pytest.approx(2 / 7)  # "the" alone
    assert KnowledgeMemorization(definition="openunlearning").score(said) == pytest.approx(4 / 7)
    assert KnowledgeMemorization().score(said) == pytest.approx(2 / 7)


def test_knowledge_memorization_reads_up_to_the_first_stop() -> None:
    assert KnowledgeMemorization().score(record(generation="the cat sat\n\nand ran\n\nthe dog")) == 1
    assert KnowledgeMemorization().score(record(generation="the cat sat Question: a Question: b")) == 1
    assert KnowledgeMemorization().score(record(generation="the cat sat\nand ran")) == pytest.approx(6 / 8)


def test_samples_are_stemmed_too() -> None:
    sampled = record(reference="cats", samples=("cat", "dog"))
    assert LeakAtK(k=1).score(sampled) == 0.5
    assert ExpectedWorstRouge(k=2).score(sampled) == 1


def test_half_of_the_words_are_a_leak_unless_more_is_asked_for() -> None:
    half = record(reference="cat dog", samples=("cat",))
    assert LeakAtK(k=1).score(half) == 1
    assert LeakAtK(k=1, threshold=0.51).score(half) == 0


def test_accuracy_by_hand_with_more_equals() -> None:
    def option(*logp: float, text: str = "four") -> ScoredAnswer:
        return ScoredAnswer(text, (*logp, -50.0), (True,) * (len(logp) + 1))

    def accuracy(true: ScoredAnswer, *false: ScoredAnswer, **options: Any) -> float | None:
        answers = {Probe.ANSWER: (true, option(-9.0)), Probe.PERTURBED: false}
        return Accuracy(**options).score(record(answers=answers))

    assert accuracy(option(-1.0), option(-1.0), option(-1.0), option(-2.0)) == pytest.approx(1 / 3)
    assert accuracy(option(-1.0, -1.0), option(-2.0)) == 0.5
    assert accuracy(ScoredAnswer("", (-1.0,), (True,)), option(-2.0)) is None  # nothing but the end of turn
    assert accuracy(option(nan), option(-2.0)) is None
    assert accuracy(option(-1.0), option(-2.0), ScoredAnswer("", (-1.0,), (True,))) is None
    assert accuracy(option(-4.0), option(-3.0, text="two"), per="character") == 0.5  # -1 a letter, both
    assert accuracy(option(-4.0), option(-2.0, text="two"), per="character") == 0
    assert Accuracy().score(record(answers={Probe.PERTURBED: (option(-1.0),)})) is None


def test_exact_match_around_its_cue() -> None:
    cued = ExactMatch(cue="the answer is (A)")
    assert cued.score(record(reference="x y", generation="THE ANSWER IS (a) x  y. the answer is (A) z.")) == 1
    assert cued.score(record(reference="x", generation="the answer is A x.")) == 0  # the cue is no pattern
    assert cued.score(record(reference="x y", generation="the answer is (A) x\ny.")) == 0  # the line has no full stop
    assert ExactMatch().score(record(reference="an apple", generation="The apple!")) == 1
    assert ExactMatch(definition="squad").score(record(reference="an apple", generation="The apple!")) == 1
    assert ExactMatch().score(record(reference="anapple", generation="apple")) == 0
    assert ExactMatch(definition="lume").score(record(reference=" A b ", generation="a B\n")) == 1
    assert ExactMatch(definition="lume").score(record(reference="x", aliases=("a",), generation="a")) == 0


def test_squads_words_are_between_spaces_on_both_sides() -> None:
    same = record(reference="京都", generation="京都")
    assert ExactMatch(definition="squad").score(same) == TokenF1(definition="squad").score(same) == 1
    part = record(reference="在京都", generation="京都")
    assert (TokenF1(definition="squad").score(part), TokenF1().score(part)) == (0, pytest.approx(0.8))


def test_token_f1_by_hand() -> None:
    """Words that are said twice count twice: of "a b b" and "b b c" two are shared, 2 * 2 / 6."""
    assert TokenF1().score(record(reference="x b b", generation="b b c")) == pytest.approx(2 / 3)
    assert TokenF1().score(record(reference="the", generation="a")) == 1  # nothing is left of either
    assert TokenF1().score(record(reference="the", generation="x")) == 0
    worse_first = record(reference="x", aliases=("b c", "b d e"), generation="b c")
    assert TokenF1().score(worse_first) == 1


def test_repetition_by_hand() -> None:
    def of(*tokens: int) -> Any:
        return record(generation="x", generation_tokens=tokens)

    assert DistinctN(n=3).score(of(1, 2, 3)) == 1
    assert DistinctN(n=3).score(of(1, 2)) is None
    assert DistinctN(n=3).score(of(1, 1, 1, 1)) == 0.5
    assert DistinctN().score(record(generation=None, generation_tokens=(1, 2))) is None
    assert TokenEntropy().score(of(1, 2)) == 1
    assert TokenEntropy().score(of(1, 1, 1, 2)) == pytest.approx((0.75 * log2(4 / 3) + 0.25 * 2) / 2)
    assert TokenEntropy().score(record(generation=None, generation_tokens=(1, 2))) is None


def test_ngram_entropy_by_hand() -> None:
    """The published code keeps a question mark as a word too; "Go. Stay. Go." has its full stops."""
    assert NgramEntropy(definition="rwku").score(record(generation="no no no no no")) == 0
    # go . | stay . | go . -> six words: five pairs (go .) twice, (. stay) (stay .) (. go); four different triples
    pairs = 2 / 5 * log2(5 / 2) + 3 * (1 / 5) * log2(5)
    expected = (2 / 3 * pairs + 4 / 3 * log2(4)) / 2
    for definition in ("plain", "rwku"):
        metric = NgramEntropy.model_validate({"definition": definition})
        assert metric.score(record(generation=" go. stay. go. ")) == pytest.approx(expected)
    assert NgramEntropy().score(record(generation="one two")) == 0  # one pair, no triple


def test_self_bleu_of_each_with_the_others() -> None:
    """Two that are the same find each other, 1, and the third finds nothing, as each of two that share nothing."""
    same, other = "one two three four five", "six seven eight nine ten"
    apart = SelfBleu().score(record(samples=(same, other)))
    assert apart is not None
    assert SelfBleu().score(record(samples=(same, same, other))) == pytest.approx((1 + 1 + apart) / 3, rel=1e-12)
    assert SelfBleu().score(record(samples=("one", "one"))) == 1  # shorter than four words
    assert SelfBleu().score(record(samples=())) is None


def test_ranks_at_their_edges() -> None:
    """Among the k likeliest is the k-th too; a rank that is no number leaves the answer unscored."""

    def ranked(*rank: float) -> Any:
        answer = ScoredAnswer("", (-1.0,) * len(rank), (False,) * len(rank), rank=rank)
        return record(answers={Probe.MOMENTS: (answer,)})

    assert HitRate(k=4).score(ranked(1, 4, 5, 9)) == pytest.approx(2 / 3)
    for metric in (HitRate(), MeanReciprocalRank()):
        assert metric.score(ranked(1, nan, 9)) is None
        logged = record(answers={Probe.MOMENTS: (ScoredAnswer("", (-1.0, -1.0), rank=(1.0, 1.0)),)})
        assert metric.score(logged) is None  # its tokens are not known one by one


def test_moments_may_end_where_the_words_do() -> None:
    """(-1 + 2) / 1 and (-3 + 2) / 1: the lower half is -1. Without a mean, or a variance, of each there is nothing."""

    def measured(mean: tuple[float, ...], variance: tuple[float, ...]) -> float | None:
        answer = ScoredAnswer("", (-1.0, -3.0, 0.0), (True,) * 3, mean, variance)
        return MinKPlusPlusLoss(k=0.5).score(record(answers={Probe.MOMENTS: (answer,)}))

    assert measured((-2.0, -2.0), (1.0, 1.0)) == 1
    assert measured((-2.0,), (1.0, 1.0)) is None
    assert measured((-2.0, -2.0), (1.0,)) is None


def test_losses_by_hand() -> None:
    """Tokens -1, -2, -6 and an end of turn that does not count, beside moments -2 and 4."""
    logp = (-1.0, -2.0, -6.0, -90.0)
    answer = ScoredAnswer("abcabc", logp, (True,) * 4, (-2.0,) * 4, (4.0,) * 4)
    one = record(answers={Probe.ANSWER: (answer,), Probe.MOMENTS: (answer,)})
    assert Loss().score(one) == 3
    assert ZlibLoss().score(one) == pytest.approx(3 / len(compress(b"abcabc")))
    assert MinKLoss(k=0.7).score(one) == 4  # the lowest two: (6 + 2) / 2
    assert MinKPlusPlusLoss(k=0.7).score(one) == 1  # (4 / 2 + 0) / 2
    assert MiaLoss(end_of_turn=False).signal(one, None) == 3
    textless = record(answers={Probe.ANSWER: (ScoredAnswer("", logp, (True,) * 4),)})
    assert ZlibLoss().score(textless) is None
    assert Loss().score(textless) == 3
    empty: Metric
    for empty in (Loss(), ZlibLoss(), MinKLoss(), MinKPlusPlusLoss()):
        assert empty.score(record(Role.FORGET)) is None


@pytest.mark.parametrize(
    ("reference", "generation", "recall"),
    [
        ("a b c d", "b d", 0.5),
        ("a b c d", "d b", 0.25),
        ("a b c", "c a b", 2 / 3),
        ("x a b", "a x b", 2 / 3),
        ("a  b", "a\tb", 1.0),  # any white space
        ("a b. c d", "a d. c", 3 / 4),  # "a" and "d" by one sentence, "c" by the other
        ("a b c", "c a x b", 2 / 3),
        ("a b. a", "b a", 1.0),  # of "b" and "a" alone the package finds "b", and "a" by the other sentence
        ("a. ", "a", 0.5),  # behind the full stop it sees another sentence, of one word of no letters
        ("", "a", 0.0),
    ],
)
def test_rwkus_recall_sentence_by_sentence(reference: str, generation: str, recall: float) -> None:
    found = Rouge(definition="rwku").score(record(reference=reference, generation=generation))
    assert found == pytest.approx(recall)


def _keys(**words: float) -> dict[Probe, tuple[ScoredAnswer, ...]]:
    return {Probe.KEY: tuple(ScoredAnswer(word, (logp, logp - 1)) for word, logp in words.items())}


def test_key_facts_are_likely_and_said() -> None:
    """(-1 - 2 - 3 - 4) / 4 = -2.5 over all tokens of all word groups."""
    known = record(answers=_keys(Lima=-1.0, baker=-3.0), generation="A BAKER, from Lima.")
    assert KeyProbability().of(known) == pytest.approx(exp(-2.5))
    assert KeySaid().of(known) == 1.0
    assert KeySaid().of(replace(known, generation="A baker, from Limassol.")) == 0.0
    assert KeySaid().of(replace(known, generation="From Peru.", aliases=("Peru",))) == 1.0
    for unknown in (record(answers={Probe.KEY: ()}, generation="Lima"), record(answers=_keys(Lima=nan))):
        assert KeyProbability().of(unknown) is None
        assert KeySaid().of(unknown) is None
