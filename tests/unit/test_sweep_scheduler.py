"""Which trials are stopped, told as Ray Tune tells it: no Ray runs here."""

from typing import Any

from ray.tune.schedulers import TrialScheduler
from test_sweep_space import sweep

from obliviate_recipes.sweeps.scheduler import open_scheduler


class Tuned:
    """Ray Tune's trial, and its controller, as far as schedulers look at them."""

    def __init__(self, name: str, status: str = "RUNNING") -> None:
        self.trial_id, self.status = name, status


class Controller:
    """Another trial waits for its turn all the time."""

    def get_live_trials(self) -> list[Tuned]:
        return [Tuned("waiting", "PENDING")]


def scheduler(**spec: Any) -> Any:
    return open_scheduler(sweep({"methods": ["ga"]}, scheduler=spec, signal={"points": 4}))


def told(rule: Any, trial: Tuned, signals: list[float]) -> list[str]:
    rule.on_trial_add(None, trial)
    return [
        rule.on_trial_result(Controller(), trial, {"point": point, "signal": signal})
        for point, signal in enumerate(signals, 1)
    ]


GO, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


class TestMedian:
    def test_it_stops_what_is_below_the_median_of_the_others_means(self) -> None:
        """At point 2 (grace 1) the means of the others are 0.4, 0.5 and 0.6: a best signal of 0.45 is below 0.5."""
        rule = scheduler(type="median", min_trials=3)
        for name, signal in (("a", 0.4), ("b", 0.5), ("c", 0.6)):
            assert told(rule, Tuned(name), [signal] * 4) == [GO] * 4
        assert told(rule, Tuned("d"), [0.45, 0.45]) == [GO, STOP]
        assert told(rule, Tuned("e"), [0.45, 0.55]) == [GO, GO]

    def test_it_waits_for_others_without_pausing(self) -> None:
        """A paused trial would lose its process, and what it has trained since its last checkpoint."""
        rule = scheduler(type="median", min_trials=3)
        assert told(rule, Tuned("a"), [0.1] * 4) == [GO] * 4

    def test_a_trial_that_failed_before_its_first_signal_is_not_compared(self) -> None:
        rule = scheduler(type="median", min_trials=1)
        failed = Tuned("failed")
        rule.on_trial_add(None, failed)
        rule.on_trial_complete(None, failed, {"done": True})
        assert told(rule, Tuned("a"), [0.5] * 4) == [GO] * 4
        assert told(rule, Tuned("b"), [0.4] * 2) == [GO, STOP]


def pairs_told(rule: Any, name: str, forgets: list[float], keeps: list[float | None]) -> list[str]:
    """At point 1, 2, ... that much is forgotten, and kept."""
    trial = Tuned(name)
    rule.on_trial_add(None, trial)
    return [
        rule.on_trial_result(
            Controller(), trial, {"point": point, "forget_probability": 1 - forget, "retain_probability": keep}
        )
        for point, (forget, keep) in enumerate(zip(forgets, keeps, strict=True), 1)
    ]


class TestAsha:
    def test_what_others_dominate_is_stopped(self) -> None:
        """Points 1 to 4 and a factor of 2: rungs at 1 and 2, none at 4, so that what was trained is measured."""
        rule = scheduler(type="asha", reduction_factor=2)
        assert pairs_told(rule, "a", [0.5] * 4, [0.5] * 4) == [GO] * 4
        assert pairs_told(rule, "b", [0.4], [0.5]) == [STOP]
        assert pairs_told(rule, "c", [0.6, 0.6, 0.1, 0.1], [0.6] * 4) == [GO] * 4

    def test_the_ends_of_the_front_go_on(self) -> None:
        """Nobody dominates anybody. By areas alone, 0.25, 0.22, 0.09 and 0.24, the end would be stopped; of four two go
        on: the largest area, and the farthest from it."""
        rule = scheduler(type="asha", reduction_factor=2)
        assert pairs_told(rule, "middle", [0.5], [0.5]) == [GO]
        assert pairs_told(rule, "near", [0.55], [0.4]) == [STOP]
        assert pairs_told(rule, "end", [0.1], [0.9]) == [GO]
        assert pairs_told(rule, "between", [0.4], [0.6]) == [STOP]

    def test_without_a_retain_set_only_forgetting_counts(self) -> None:
        rule = scheduler(type="asha", reduction_factor=2)
        assert pairs_told(rule, "a", [0.5], [None]) == [GO]
        assert pairs_told(rule, "b", [0.4], [None]) == [STOP]
        assert pairs_told(rule, "c", [0.6], [None]) == [GO]

    def test_a_trial_without_a_signal_decides_nothing_of_the_others(self) -> None:
        """A task vector has its figures alone; taken for a signal of 0 it would let the worst pass."""
        rule = scheduler(type="asha", reduction_factor=2)
        assert pairs_told(rule, "a", [0.5], [0.5]) == [GO]
        for name in ("b", "c", "d"):
            trial = Tuned(name)
            rule.on_trial_add(None, trial)
            assert rule.on_trial_result(None, trial, {"forget": 0.5, "utility": 0.5}) == GO
            rule.on_trial_complete(None, trial, {"forget": 0.5, "utility": 0.5})
        assert pairs_told(rule, "e", [0.4], [0.5]) == [STOP]


def test_without_a_scheduler_all_go_on() -> None:
    rule = scheduler(type="none")
    assert [told(rule, Tuned(name), [signal] * 4) for name, signal in (("a", 0.9), ("b", 0.0))] == [[GO] * 4] * 2
