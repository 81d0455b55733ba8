"""Similarity and entailment: what is made of a judgement."""

import pytest

from measured import record
from obliviate_eval.metrics import Entailment, Judged, Similarity


@pytest.mark.parametrize(("cosine", "expected"), [(0.3, 0.3), (-0.2, 0.0), (0.0, 0.0), (1.0000001, 1.0), (None, None)])
def test_similarity_is_the_cosine_clipped_to_0_and_1(cosine: float | None, expected: float | None) -> None:
    assert Similarity().score(record(generation="x", similarity=cosine)) == expected


@pytest.mark.parametrize(("label", "expected"), [("entailment", 1.0), ("neutral", 0.0), ("contradiction", 0.0)])
def test_entailment_is_1_for_that_label_alone(label: str, expected: float) -> None:
    assert Entailment().score(record(generation="the cat sat", entailment=label)) == expected


@pytest.mark.parametrize(("verdict", "expected"), [(True, 1.0), (False, 0.0), (None, None)])
def test_judged_is_1_for_yes(verdict: bool | None, expected: float | None) -> None:
    assert Judged().score(record(generation="x", verdict=verdict)) == expected


def test_entailment_is_refused_below_a_rouge_recall_of_a_tenth() -> None:
    ten, eleven = "cat b c d e f g h i j", "cat b c d e f g h i j k"
    at_floor = record(reference=ten, generation="cat", entailment="entailment")  # recall 1/10: not below
    below = record(reference=eleven, generation="cat", entailment="entailment")  # recall 1/11
    assert Entailment().score(at_floor) == 1
    assert Entailment().score(below) == 0


def test_the_floor_looks_at_the_short_reference() -> None:
    # 1 of 2 words of the answer; of the full sentence it would be 1 of 11.
    item = record(reference="William Shakespeare", full_reference="a b c d e f g h i William Shakespeare",
                  generation="William", entailment="entailment")  # fmt: skip
    assert Entailment().score(item) == 1


def test_what_was_not_judged_or_not_generated_is_not_scored() -> None:
    assert Entailment().score(record(generation="the cat sat")) is None
    assert Entailment().score(record(generation=None, entailment="entailment")) is None
    assert Similarity().score(record(generation=None)) is None
