from math import inf, log, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measured import record, scored
from obliviate.data.rows import Role
from obliviate_eval.metrics import TruthRatio
from obliviate_eval.metrics.base import KEPT

CLOSER_LOOK, TOFU = TruthRatio(), TruthRatio(definition="tofu")


def item(role: Role, right: float, wrong: list[float]):
    """Probabilities per token of the paraphrase and of the false answers."""
    return scored(role, log(right), [log(p) for p in wrong])


# The false answers' geometric mean is sqrt(0.25 * 0.0625) = 0.125: r = 0.5 / 0.125 = 4, or 0.03125 / 0.125 = 1/4.
TOLD = (0.5, [0.25, 0.0625])
CONFUSED = (0.03125, [0.25, 0.0625])


@pytest.mark.parametrize("role", KEPT)
def test_kept_facts_score_1_minus_1_over_r(role: Role) -> None:
    for metric in (CLOSER_LOOK, TOFU):
        assert metric.score(item(role, *TOLD)) == pytest.approx(0.75, abs=1e-12)  # 1 - 1/4
        assert metric.score(item(role, *CONFUSED)) == 0  # 1 - 4 < 0
        assert metric.score(item(role, 0.25, [0.25])) == 0
        assert metric.score(item(role, 0.25, [0.125])) == pytest.approx(0.5, abs=1e-12)  # r = 2


def test_forgotten_facts_score_nearness_of_r_to_1_and_the_two_definitions_turn_it() -> None:
    for right, wrong in (TOLD, CONFUSED):
        assert TOFU.score(item(Role.FORGET, right, wrong)) == pytest.approx(0.25, abs=1e-12)  # min(4, 1/4)
        assert CLOSER_LOOK.score(item(Role.FORGET, right, wrong)) == pytest.approx(0.75, abs=1e-12)
    assert TOFU.score(item(Role.FORGET, 0.25, [0.25])) == 1
    assert CLOSER_LOOK.score(item(Role.FORGET, 0.25, [0.25])) == 0


def test_the_default_is_the_definition_of_a_closer_look() -> None:
    assert TruthRatio().definition == "closer_look"


@pytest.mark.parametrize("broken", [nan, inf, -inf])
def test_a_collapsed_model_is_not_scored(broken: float) -> None:
    assert CLOSER_LOOK.score(scored(Role.FORGET, broken, [-1.0])) is None
    assert CLOSER_LOOK.score(scored(Role.FORGET, -1.0, [-1.0, broken])) is None  # not the mean of what is left


def test_without_the_texts_it_needs_it_is_not_scored() -> None:
    assert CLOSER_LOOK.score(record(Role.FORGET)) is None
    assert CLOSER_LOOK.score(scored(Role.FORGET, -1.0, [])) is None


@pytest.mark.parametrize(("right", "wrong"), [(-1.0, -5000.0), (-5000.0, -1.0)])
def test_a_ratio_beyond_floating_point_is_scored(right: float, wrong: float) -> None:
    # r = exp(+-4999) overflows; min(r, 1/r) is 0 to any precision.
    assert TOFU.score(scored(Role.FORGET, right, [wrong])) == 0
    assert CLOSER_LOOK.score(scored(Role.FORGET, right, [wrong])) == 1
    assert CLOSER_LOOK.score(scored(Role.RETAIN, right, [wrong])) == (1 if right > wrong else 0)


nats = st.floats(-1000, 0)


@given(st.sampled_from(Role), nats, st.lists(nats, min_size=1, max_size=5), st.randoms())
def test_between_0_and_1_and_the_order_of_false_answers_does_not_matter(
    role: Role, right: float, wrong: list[float], random
) -> None:
    scores = [metric.score(scored(role, right, wrong)) for metric in (CLOSER_LOOK, TOFU)]
    random.shuffle(wrong)
    assert scores == [metric.score(scored(role, right, wrong)) for metric in (CLOSER_LOOK, TOFU)]
    assert all(score is not None and 0 <= score <= 1 for score in scores)


@given(nats, st.lists(nats, min_size=1, max_size=5))
def test_on_forget_the_two_definitions_add_up_to_1(right: float, wrong: list[float]) -> None:
    forget = scored(Role.FORGET, right, wrong)
    one, other = CLOSER_LOOK.score(forget), TOFU.score(forget)
    assert one is not None
    assert other is not None
    assert one + other == pytest.approx(1, abs=1e-12)
