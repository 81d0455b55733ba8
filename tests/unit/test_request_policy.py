"""What a policy says to measurements made by hand."""

from typing import Any

import pytest

from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate_eval.spec import EvaluationSpec
from obliviate_recipes.requests.measurement import Measurement
from obliviate_recipes.requests.policy import AttackBound, Bound, Policy
from requests_world import figure


def measured(efficacy: dict[int, float | None], utility: float | None = 0.5) -> Measurement:
    return Measurement(
        evaluation="folder",
        requests={number: {"forget_efficacy": figure(value)} for number, value in efficacy.items()},
        kept={"model_utility": figure(utility)},
    )


def known(*requests: int) -> dict[int, bool]:
    """Those of the batch, whose texts were not forgotten before it."""
    return dict.fromkeys(requests, True)


def policy(forget: Bound, utility: Bound | None = None, *, recheck: bool = True) -> Policy:
    return Policy(
        forget={"forget_efficacy": forget},
        utility={"model_utility": utility or Bound(min=0, allow=True)},
        recheck=recheck,
    )


BEFORE = measured({1: 0.2, 2: 0.3})


def test_limits_are_met_at_their_values() -> None:
    assert policy(Bound(min=0.6, max=0.7)).violations(known(1, 2), BEFORE, measured({1: 0.6, 2: 0.7})) == []


def test_every_request_is_bound() -> None:
    found = policy(Bound(min=0.6)).violations(known(1, 2), BEFORE, measured({1: 0.59, 2: 0.8}))
    assert found == ["request 1: forget_efficacy is 0.590, below 0.600"]


def test_limits_relative_to_before() -> None:
    """2 x 0.2 = 0.4 and 2 x 0.3 = 0.6; utility 0.9 x 0.5 = 0.45."""
    bounds = policy(Bound(min_of_before=2), Bound(min_of_before=0.9, max_of_before=1.1))
    assert bounds.violations(known(1, 2), BEFORE, measured({1: 0.4, 2: 0.6}, 0.45)) == []
    assert bounds.violations(known(1, 2), BEFORE, measured({1: 0.4, 2: 0.59}, 0.44)) == [
        "request 2: forget_efficacy is 0.590, below 0.600",
        "utility: model_utility is 0.440, below 0.450",
    ]
    assert bounds.violations(known(1, 2), BEFORE, measured({1: 0.4, 2: 0.6}, 0.56)) == [
        "utility: model_utility is 0.560, above 0.550"
    ]


def test_what_cannot_be_measured_meets_nothing() -> None:
    bounds = policy(Bound(min=0, min_of_before=1))
    assert bounds.violations(known(1), BEFORE, measured({1: None})) == [
        "request 1: forget_efficacy could not be measured"
    ]
    assert bounds.violations(known(3), BEFORE, measured({3: 1.0})) == [
        "request 3: forget_efficacy could not be measured before unlearning"
    ]
    assert bounds.violations(known(1), BEFORE, measured({1: 0.3}, None)) == [
        "utility: model_utility could not be measured"
    ]


def test_earlier_requests_are_held_to_absolute_limits() -> None:
    """Request 1 is not of this batch: it was at 0.9 before, so twice that is out of reach, and not asked."""
    before, after = measured({1: 0.9, 2: 0.3}), measured({1: 0.5, 2: 0.9})
    bound = Bound(min=0.6, min_of_before=2)
    found = policy(bound).violations(known(2), before, after)
    assert found == ["earlier request 1: forget_efficacy is 0.500, below 0.600"]
    assert policy(bound, recheck=False).violations(known(2), before, after) == []


def test_what_another_request_had_forgotten_is_held_to_absolute_limits() -> None:
    """Both requests are of the batch; of the first all texts were forgotten before: 2 x 0.9 is out of its reach."""
    before, bound = measured({1: 0.9, 2: 0.3}), Bound(min=0.6, min_of_before=2)
    assert policy(bound).violations({1: False, 2: True}, before, measured({1: 0.9, 2: 0.6})) == []
    assert policy(bound).violations({1: False, 2: True}, before, measured({1: 0.5, 2: 0.5})) == [
        "request 1: forget_efficacy is 0.500, below 0.600",
        "request 2: forget_efficacy is 0.500, below 0.600",
        "request 2: forget_efficacy is 0.500, below 0.600",
    ]


def test_a_bound_without_a_limit() -> None:
    with pytest.raises(ValueError, match="has no limit; give min, max, min_of_before or max_of_before"):
        Bound()


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"max": 1}, "max: 1"),
        ({"min": 0.0}, "min: 0"),
        ({"max_of_before": 1.5}, "max_of_before: 1.5"),
        ({"min_of_before": 0, "max": 2}, "max: 2, min_of_before: 0"),
    ],
)
def test_a_bound_that_forbids_nothing(limits: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=f"{told} forbids nothing to a figure from 0 to 1; tighten it, or add allow"):
        Bound(**limits)  # type: ignore[arg-type]
    assert Bound(**limits, allow=True).allow  # type: ignore[arg-type]


@pytest.mark.parametrize("limits", [{"max": 0.99}, {"max_of_before": 1}, {"min": 0, "max_of_before": 0.5}])
def test_a_bound_that_forbids_something(limits: dict[str, float]) -> None:
    Bound(**limits)  # type: ignore[arg-type]


def test_an_attack_that_may_bring_back_everything() -> None:
    with pytest.raises(ValueError, match="excess: 1 forbids nothing; lower it, or add allow: true"):
        AttackBound(excess=1)
    assert AttackBound(excess=1, allow=True).excess == 1


def test_texts_that_became_more_likely_are_not_unlearned_whatever_the_policy_allows() -> None:
    def likely(value: float) -> Measurement:
        return Measurement(
            evaluation="runs/x", kept={"model_utility": figure(0.5)},
            requests={1: {"rouge": figure(0.1), "probability": figure(value)}},
        )  # fmt: skip

    lax = Policy(forget={"rouge": Bound(max=1, allow=True)}, utility={"model_utility": Bound(min=0, allow=True)})
    assert lax.violations({1: True}, likely(0.5), likely(0.5)) == []
    assert lax.violations({1: True}, likely(0.5), likely(0.6)) == [
        "request 1: its texts became more likely: probability is 0.600, before 0.500"
    ]
    assert lax.violations({1: False}, likely(0.5), likely(0.6)) == []  # forgotten by another request before


@pytest.mark.parametrize(
    ("forget", "utility", "message"),
    [
        ("forget_eficacy", "model_utility", r"policy.forget.forget_eficacy: .* did you mean forget_efficacy\?"),
        ("model_utility", "model_utility", "policy.forget.model_utility: the suite closer_look measures no such thing"),
        ("rouge", "retain.rogue", r"policy.utility.retain.rogue: .* did you mean retain.rouge\?"),
        ("rouge", "forget_efficacy", "policy.utility.forget_efficacy: "),
        ("rouge", "holiday", "policy.utility.holiday: .*; known: model_utility, tofu_model_utility, retain.key_said, "),
    ],
)
def test_names_that_are_not_measured(forget: str, utility: str, message: str) -> None:
    made = Policy(forget={forget: Bound(min=0, allow=True)}, utility={utility: Bound(min=0, allow=True)})
    with pytest.raises(UserError, match=message):
        made.check(EvaluationSpec(), [("retain", Role.RETAIN)])


def test_names_that_are_measured() -> None:
    names = {"model_utility": Bound(min=0, allow=True), "retain.rouge": Bound(min=0, allow=True)}
    Policy(forget={"rouge": Bound(max=1, allow=True)}, utility=names).check(EvaluationSpec(), [("retain", Role.RETAIN)])


@pytest.mark.parametrize(
    ("spec", "name", "message"),
    [
        (
            {"nli": None},
            "entailment",
            "policy.forget.entailment: is judged by evaluation.nli, which is null; give a model",
        ),
        (
            {"suite": "muse"},
            "knowledge_retain.probability",
            "policy.utility.knowledge_retain.probability: the suite muse ",
        ),
    ],
)
def test_names_that_the_evaluation_leaves_out(spec: dict[str, Any], name: str, message: str) -> None:
    forget, utility = ("rouge", name) if "." in name else (name, "retain.rouge")
    if spec.get("suite") == "muse":
        forget = "knowledge_memorization"
    made = Policy(forget={forget: Bound(max=1, allow=True)}, utility={utility: Bound(min=0, allow=True)})
    sets = [("retain", Role.RETAIN), ("knowledge_retain", Role.RETAIN)]
    with pytest.raises(UserError, match=message):
        made.check(EvaluationSpec(**spec), sets)


def test_an_attack_may_bring_back_no_more_than_its_limit() -> None:
    bounds = policy(Bound(min=0, allow=True)).model_copy(
        update={"attack": {"relearn.key_said": AttackBound(excess=0.1)}}
    )

    def said(value: float | None) -> list[str]:
        after = BEFORE.model_copy(update={"attacks": {"relearn.key_said": figure(value)}})
        return bounds.violations(known(1, 2), BEFORE, after)

    assert said(0.1) == said(-1.0) == []
    assert said(0.11) == ["attack: relearn.key_said brings back 0.110, above 0.100"]
    assert said(None) == ["attack: relearn.key_said could not be measured"]
    assert bounds.violations(known(1), BEFORE, BEFORE) == ["attack: relearn.key_said could not be measured"]


def test_only_an_attack_that_is_tried_can_be_bound() -> None:
    bounds = Policy(
        forget={"rouge": Bound(min=0, allow=True)}, utility={"model_utility": Bound(min=0, allow=True)},
        attack={"relearn forget.key_said": AttackBound(excess=0.1)},
    )  # fmt: skip
    kept = [("retain", Role.RETAIN)]
    bounds.check(EvaluationSpec(), kept, ["relearn forget"])
    for tried, known_ones in (([], "none: the config has no attacks"), (["prune"], "prune.key_probability")):
        with pytest.raises(UserError, match=f"policy.attack.relearn forget.key_said: .*{known_ones}"):
            bounds.check(EvaluationSpec(), kept, tried)
