"""Excess recovery: numbers worked by hand, and what must hold by construction."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obliviate_eval.recovery import LEAST, Arm, Recovery, Scores, recovery
from obliviate_eval.robustness import PLAIN, Outcome, Trial, figures_of, notes_of, outcomes_of, worst_of_each

ORIGINAL = Arm((0.9, 0.7), (0.9, 0.7))
RETAIN = Arm((0.1, 0.1), (0.2, 0.1))


def recovered(unlearned: Arm, retain: Arm | None = RETAIN, original: Arm = ORIGINAL, **keys: bool) -> Recovery:
    own = keys.get("own_scale", False)
    return recovery(unlearned, retain, original, own_scale=own, resamples=200, seed=[0])


def test_a_recovery_by_hand() -> None:
    """Means: original 0.8, unlearned 0.2 -> 0.5, retain model 0.1 -> 0.15.

    Recovered 0.3 / 0.6, taught 0.05 / 0.7; known (0.5 - 0.15) / 0.7.
    """
    found = recovered(Arm((0.1, 0.3), (0.6, 0.4)))
    assert found.recovered.value == pytest.approx(0.5)
    assert found.taught.value == pytest.approx(0.05 / 0.7)
    assert found.excess.value == pytest.approx(0.5 - 0.05 / 0.7)
    assert found.known.value == pytest.approx(0.35 / 0.7)
    assert found.lost == pytest.approx(0.6)
    assert (found.before.value, found.after.value) == pytest.approx((0.2, 0.5))
    assert found.excess.low is not None
    assert found.excess.high is not None
    assert found.excess.low <= found.excess.value <= found.excess.high


def test_another_scale_is_a_share_of_knowledge_first() -> None:
    """Plain: original 0.8, retain 0.1, unlearned 0.2, a share of 1/7. Asked otherwise: 1.0, 0.25 and 0.5: a share of
    1/3. Recovered (1/3 - 1/7) / (1 - 1/7)."""
    original = Arm((0.9, 0.7), (1.0, 1.0))
    retain = Arm((0.1, 0.1), (0.25, 0.25))
    found = recovered(Arm((0.1, 0.3), (0.5, 0.5)), retain, original, own_scale=True)
    assert found.excess.value == pytest.approx((1 / 3 - 1 / 7) / (1 - 1 / 7))
    assert found.known.value == pytest.approx(1 / 3)
    assert recovered(retain, retain, original, own_scale=True).excess.value == pytest.approx(0)
    assert recovered(original, retain, original, own_scale=True).excess.value is None  # nothing was lost


def test_what_the_original_never_knew_is_left_out_and_counted() -> None:
    """Item 2 is known to the retain model as well, item 3 to nobody, item 4 was not scored."""
    original = Arm((0.9, 0.6, 0.02, 0.9), (0.9, 0.6, 0.02, 0.9))
    retain = Arm((0.1, 0.6, 0.0, 0.1), (0.1, 0.6, 0.0, 0.1))
    found = recovered(Arm((0.1, 0.0, 0.0, 0.1), (0.5, 0.9, 0.9, None)), retain, original)
    assert (found.items, found.unknown, found.shared, found.unscored) == (4, 2, 1, 1)
    assert found.excess.value == pytest.approx(0.5)
    assert found.excess.scored == 1
    assert found.excess.unscored == 3
    assert found.excess.low is None  # of one item there is no spread


def test_without_a_retain_model_nothing_is_subtracted() -> None:
    found = recovered(Arm((0.1, 0.3), (0.6, 0.4)), None)
    assert found.taught.value is None
    assert found.excess.value == found.recovered.value == pytest.approx(0.5)


@pytest.mark.parametrize("unlearned", [ORIGINAL, Arm((0.88, 0.7), (0.1, 0.1))])
def test_nothing_recovers_where_nothing_was_lost(unlearned: Arm) -> None:
    assert recovered(unlearned).excess.value is None


def test_no_items_tell_nothing() -> None:
    nobody = Arm((None, None), (None, None))
    assert recovered(nobody, nobody, nobody).excess.value is None
    assert recovered(Arm((), ()), Arm((), ()), Arm((), ())).excess.value is None


_PROBABILITY = st.floats(0, 1)


@given(st.lists(st.tuples(*[_PROBABILITY] * 4), min_size=1, max_size=6))
def test_the_retain_model_recovers_nothing_and_neither_does_no_attack(
    items: list[tuple[float, float, float, float]],
) -> None:
    full, before, after, unlearned = (tuple(column) for column in zip(*items, strict=True))
    original, retain = Arm(full, full), Arm(before, after)
    own = recovered(retain, retain, original).excess.value
    assert own is None or own == pytest.approx(0, abs=1e-9)
    still = recovered(Arm(unlearned, unlearned), Arm(before, before), original).excess.value
    assert still is None or still == pytest.approx(0, abs=1e-9)


def _trial(after: Scores, setting: str, left: float | None, **keys: object) -> Trial:
    arms = {"full": ORIGINAL, "never": Arm((0.1, 0.1), (0.1, 0.1)), "new": Arm((0.1, 0.3), after)}
    utility = {} if left is None else {"full": 1.0, "never": 1.0, "new": left}
    values: dict[str, object] = {"attack": "train", "measure": "key_probability", "steps": None} | keys
    return Trial(setting=setting, own_scale=False, arms=arms, utility=utility, **values)  # type: ignore[arg-type]


def _outcomes(trials: list[Trial]) -> list[Outcome]:
    return outcomes_of("new", trials, "full", "never", 0.1, resamples=100, seed=0)


def test_the_worst_case_keeps_to_the_budget() -> None:
    """The second setting brings back most, but costs 20 % of the utility: the first counts, and both are told."""
    trials = [
        _trial((0.1, 0.3), "as usual", None, attack=PLAIN),
        _trial((0.6, 0.4), "mild", 0.95, steps=1),
        _trial((0.9, 0.7), "hard", 0.8, steps=5),
        _trial((0.1, 0.3), "nothing", 1.0, steps=9),
    ]
    figures = figures_of(_outcomes(trials))
    attack = figures.attacks["train"]
    assert list(figures.attacks) == ["train"]
    assert (attack.settings, attack.collapsed) == (3, 1)
    assert attack.worst["key_probability"].setting == figures.attack == "mild"
    assert attack.mean["key_probability"] == pytest.approx(0.25)
    assert attack.half["key_probability"].unlearned == 1
    assert attack.half["key_probability"].retain is None
    assert figures.score is not None
    assert figures.score.value == pytest.approx(0.5)
    assert figures.plain is not None
    assert figures.plain.value == pytest.approx(0.1 / 0.7)
    assert figures.known is not None
    assert figures.known.value == pytest.approx(0.4 / 0.7)


def test_an_attack_that_ruins_the_model_shows_no_robustness() -> None:
    figures = figures_of(_outcomes([_trial((0.1, 0.3), "hard", 0.2), _trial((0.9, 0.9), "unknown", float("nan"))]))
    assert figures.attacks["train"].worst == {}
    assert figures.attacks["train"].collapsed == 2
    assert figures.score is None


def test_a_helpful_attack_scores_at_most_one() -> None:
    figures = figures_of(_outcomes([_trial((0.0, 0.0), "backwards", 1.0)]))
    assert figures.score is not None
    assert figures.score.value == 1.0


def test_an_item_is_known_if_any_attack_within_the_budget_gets_it() -> None:
    trials = [_trial((0.9, 0.1), "a", 1.0), _trial((0.2, 0.3), "b", 1.0), _trial((1.0, 1.0), "c", 0.1)]
    assert worst_of_each(trials, "key_probability", "new", [True, True, False]) == [0.9, 0.3]


def test_little_knowledge_is_no_knowledge() -> None:
    arm = Arm((LEAST / 2,) * 2, (LEAST / 2,) * 2)
    assert recovered(Arm((0.0, 0.0), (0.0, 0.0)), Arm((0.0, 0.0), (0.0, 0.0)), arm).unknown == 2


def _notes(unlearned: Scores, original: Scores, *others: Trial, controlled: bool = True) -> str:
    arms = {"full": Arm(original, original), "never": Arm((0.1,) * 2, (0.1,) * 2), "new": Arm(unlearned, unlearned)}
    plain = Trial(PLAIN, "as usual", "key_probability", False, None, arms, {})
    return "\n".join(notes_of(["new"], {"new": _outcomes([plain, *others])}, controlled, 0.1))


def test_what_figures_cannot_tell_is_said() -> None:
    usual = _notes((0.2, 0.2), (0.9, 0.9))
    assert usual == "new: V has 2 items: too few to tell models apart; measure more, or lower split.share"
    assert "1 of 2 items are left out: the words that carry their fact are not known" in _notes((0.2, None), (0.9, 0.9))
    assert "1 of 2 items are left out: the original knows them no better" in _notes((0.2, 0.2), (0.9, 0.1))
    assert "no item is left that the original knows" in _notes((0.2, 0.2), (0.1, 0.1))
    assert "nothing was lost that could come back" in _notes((0.9, 0.9), (0.9, 0.9))
    assert "control: none: what an attack teaches" in _notes((0.2, 0.2), (0.9, 0.9), controlled=False)
    ruined = _notes((0.2, 0.2), (0.9, 0.9), _trial((0.9, 0.9), "hard", 0.2))
    assert "new: train: costs more than 10% of its utility at every setting" in ruined
