from dataclasses import replace
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from measured import record
from obliviate_eval.metrics import Entailment, KnowledgeMemorization, Rouge, SelfBleu, VerbatimMemorization
from obliviate_eval.metrics.rouge import lcs_length, rouge_l_f1, rouge_l_recall
from obliviate_eval.words import UnicodeTokenizer, Words, tokenizer_of


@pytest.mark.parametrize(
    ("reference", "generation", "recall"),
    [
        ("the cat sat", "the cat", 2 / 3),  # 2 of the 3 reference words are in the common subsequence
        ("the cat sat", "sat the cat", 2 / 3),  # order counts: "the cat", not all 3
        ("the cat sat", "yesterday the cat quietly sat down", 1.0),  # recall: more words cost nothing
        ("famous authors", "a famous author", 1.0),  # stemmed: authors -> author
        ("the cat sat", "", 0.0),
        ("the cat sat", "?!", 0.0),
        ("William Shakespeare", "It was WILLIAM  shakespeare.", 1.0),
    ],
)
def test_recall_of_the_longest_common_subsequence(reference: str, generation: str, recall: float) -> None:
    assert Rouge().score(record(reference=reference, generation=generation)) == pytest.approx(recall, abs=1e-12)


def test_nothing_generated_is_not_scored() -> None:
    assert Rouge().score(record(generation=None)) is None


words = st.lists(st.sampled_from(["cat", "dog", "sits", "sat", "in", "Lisbon"]), min_size=1, max_size=8).map(" ".join)


@given(words, words, words)
def test_between_0_and_1_and_never_less_for_saying_more(reference: str, said: str, more: str) -> None:
    before = Rouge().score(record(reference=reference, generation=said))
    after = Rouge().score(record(reference=reference, generation=f"{said} {more}"))
    assert before is not None
    assert after is not None
    assert 0 <= before <= after <= 1
    assert Rouge().score(record(reference=reference, generation=reference)) == 1


SCRIPTS = [
    "我不知道她住在伦敦",
    "Москва 1969",
    "مرحبا بالعالم",
    "हिन्दी भाषा",
    "สวัสดีครับ",
    "한국어 문장",
    "日本語テキスト",
    "😀👍🏽",
    "Ünïcödé",
]


@pytest.mark.parametrize("text", SCRIPTS)
def test_any_script_is_read(text: str) -> None:
    """The published tokenizer finds no word in most of them."""
    said = record(reference=text, generation=text)
    assert Rouge().score(said) == 1
    assert VerbatimMemorization().score(said) == KnowledgeMemorization().score(said) == 1
    assert rouge_l_recall(text, text) == rouge_l_f1(text, text, stemmer=False) == 1
    if text in SCRIPTS[2:8]:
        assert Rouge(words="published").score(said) == 0


def test_letters_count_beside_digits() -> None:
    said = record(reference="Москва 1969", generation="Лондон 1969")
    assert Rouge().score(said) == 0.5  # one word of two
    assert Rouge(words="published").score(said) == 1  # the number is all that it sees


def test_case_and_composition_are_folded() -> None:
    decomposed = normalize("NFD", "ÉCOLE Straße")
    assert Rouge().score(record(reference="école strasse", generation=decomposed)) == 1


def test_where_a_script_has_no_spaces_each_character_is_a_word() -> None:
    assert Rouge().score(record(reference="她住在伦敦", generation="她住在巴黎")) == pytest.approx(3 / 5)
    mixed = UnicodeTokenizer(stemmer=False).tokenize("她住在London 2号")
    assert mixed == ["她", "住", "在", "london", "2", "号"]


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=40))
def test_of_ascii_both_tokenizers_make_the_same(text: str) -> None:
    for stemmer in (True, False):
        published = tokenizer_of("published", stemmer=stemmer).tokenize(text)
        assert tokenizer_of("unicode", stemmer=stemmer).tokenize(text) == published


def test_entailments_floor_reads_any_script() -> None:
    said = replace(record(reference="Она живёт в Москве", generation="Она живёт в Москве"), entailment="entailment")
    assert Entailment().score(said) == 1
    assert Entailment(words="published").score(said) == 0


def test_self_bleu_sees_what_sentences_without_spaces_share() -> None:
    alike = replace(record(), samples=("她住在伦敦的一座小房子里", "她住在伦敦的一座大房子里"))
    apart = replace(record(), samples=("她住在伦敦的一座小房子里", "他从来没有写过任何书籍"))
    scores = SelfBleu().score(alike), SelfBleu().score(apart)
    assert scores[0] is not None
    assert scores[1] is not None
    assert scores[0] > 0.5 > 0.1 > scores[1]


@given(st.lists(st.sampled_from("abcd"), max_size=9), st.lists(st.sampled_from("abcd"), max_size=9))
def test_the_longest_common_subsequence_is_that_of_the_table(some: list[str], other: list[str]) -> None:
    """As rouge-score fills it, cell by cell."""
    assert lcs_length(some, other) == rouge_scorer._lcs_table(some, other)[-1][-1]


@given(st.text("the cat sat. on ÉÜ mats 42", max_size=60), st.text("the cat sat. on ÉÜ mats 42", max_size=60))
@pytest.mark.parametrize("words", ["unicode", "published"])
def test_figures_are_those_of_rouge_score_to_the_digit(words: Words, reference: str, generation: str) -> None:
    for stemmer in (True, False):
        scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=tokenizer_of(words, stemmer=stemmer))
        expected = scorer.score(reference, generation)["rougeL"]
        assert rouge_l_f1(reference, generation, words, stemmer=stemmer) == expected.fmeasure
        if stemmer:
            assert rouge_l_recall(reference, generation, words) == expected.recall
