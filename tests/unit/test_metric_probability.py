from math import exp, inf, log, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measured import answers, record, scored
from obliviate.data.rows import Role
from obliviate_eval.metrics import Probability
from obliviate_eval.records import Probe, ScoredAnswer

OPTIONS = [Role.REAL_AUTHORS, Role.WORLD_FACTS]
PLAIN = [Role.FORGET, Role.RETAIN]


@pytest.mark.parametrize("role", PLAIN)
def test_geometric_mean_of_the_tokens_probabilities(role: Role) -> None:
    # Tokens of probability 0.5 and 0.125: sqrt(0.5 * 0.125) = 0.25.
    answer = ScoredAnswer("", (log(0.5), log(0.125)))
    assert Probability().score(record(role, answers={Probe.ANSWER: (answer,)})) == pytest.approx(0.25, abs=1e-12)


@pytest.mark.parametrize("role", OPTIONS)
def test_share_among_true_and_false_answers(role: Role) -> None:
    # 0.5 / (0.5 + 0.25 + 0.125 + 0.125) = 0.5
    item = scored(role, log(0.5), [log(0.25), log(0.125), log(0.125)])
    assert Probability().score(item) == pytest.approx(0.5, abs=1e-12)


def test_lengths_of_the_answers_do_not_matter() -> None:
    item = record(
        Role.REAL_AUTHORS,
        answers={Probe.ANSWER: answers(-1.0, tokens=1), Probe.PERTURBED: answers(-1.0, tokens=9)},
    )
    assert Probability().score(item) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("broken", [nan, inf, -inf])
@pytest.mark.parametrize("role", PLAIN + OPTIONS)
def test_a_collapsed_model_is_not_scored(role: Role, broken: float) -> None:
    assert Probability().score(scored(role, broken, [-1.0])) is None
    expected = exp(-2.0) if role in PLAIN else None  # false answers matter only where they are options
    assert Probability().score(scored(role, -2.0, [-1.0, broken])) == expected


def test_without_the_texts_it_needs_it_is_not_scored() -> None:
    assert Probability().score(record(Role.RETAIN)) is None
    assert Probability().score(scored(Role.REAL_AUTHORS, -1.0, [])) is None  # alone its share would be 1


def test_all_probabilities_underflowing_is_not_scored() -> None:
    assert Probability().score(scored(Role.WORLD_FACTS, -800.0, [-900.0])) is None


nats = st.floats(-50, 0)


@given(nats, st.lists(nats, min_size=1, max_size=5), st.randoms())
def test_between_0_and_1_whatever_the_order_of_false_answers(right: float, wrong: list[float], random) -> None:
    share = Probability().score(scored(Role.WORLD_FACTS, right, wrong))
    random.shuffle(wrong)
    assert share is not None
    assert 0 <= share <= 1
    assert Probability().score(scored(Role.WORLD_FACTS, right, wrong)) == pytest.approx(share, rel=1e-9)
