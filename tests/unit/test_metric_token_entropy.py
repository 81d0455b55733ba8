import pytest
from hypothesis import given
from hypothesis import strategies as st

from measured import record
from obliviate_eval.metrics import TokenEntropy


def score(tokens: tuple[int, ...] | None, generation: str | None = "text") -> float | None:
    return TokenEntropy().score(record(generation=generation, generation_tokens=tokens))


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ((1, 1, 2, 3), 0.75),  # frequencies 1/2, 1/4, 1/4: 1.5 bits of log2(4) = 2
        ((5, 6, 7, 8, 9), 1.0),  # all different
        ((4,) * 50, 0.0),  # one token for ever
        ((4,), 0.0),  # log2(1) = 0 bits at most: defined as 0
        ((), 0.0),
    ],
)
def test_entropy_over_its_maximum(tokens: tuple[int, ...], expected: float) -> None:
    assert score(tokens) == pytest.approx(expected, abs=1e-12)


def test_without_tokens_it_is_not_scored() -> None:
    assert score(None) is None  # an imported log has the text alone
    assert score(None, generation=None) is None


@given(st.lists(st.integers(0, 20), max_size=200), st.randoms())
def test_between_0_and_1_and_the_order_of_tokens_does_not_matter(tokens: list[int], random) -> None:
    before = score(tuple(tokens))
    assert before is not None
    assert 0 <= before <= 1
    random.shuffle(tokens)
    assert score(tuple(tokens)) == pytest.approx(before, abs=1e-12)


@given(st.integers(2, 300))
def test_all_different_tokens_score_1(n: int) -> None:
    assert score(tuple(range(n))) == pytest.approx(1, abs=1e-12)
