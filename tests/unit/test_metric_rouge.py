import pytest
from hypothesis import given
from hypothesis import strategies as st

from measured import record
from obliviate_eval.metrics import Rouge


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
