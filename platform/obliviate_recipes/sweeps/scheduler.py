"""Which trials are stopped early, as Ray Tune asks for it: on the signal of forgetting and utility."""

from math import ceil, inf
from typing import Any

from ray.tune.schedulers import FIFOScheduler, MedianStoppingRule, TrialScheduler

from obliviate_recipes.sweeps.front import Pair, best_first
from obliviate_recipes.sweeps.spec import ASHAScheduler, MedianScheduler, SweepRun

ON_SIGNAL = {"time_attr": "point", "metric": "signal", "mode": "max"}


def open_scheduler(config: SweepRun) -> TrialScheduler:
    match config.scheduler:
        case ASHAScheduler(grace=grace, reduction_factor=factor):
            return FrontHalving(grace, factor, config.signal.points)
        case MedianScheduler(grace=grace, min_trials=trials):
            # Never pausing a trial until others have come as far: it would begin anew, in another process.
            return Median(**ON_SIGNAL, grace_period=grace + 1, min_samples_required=trials, min_time_slice=inf)
        case _:
            return FIFOScheduler()


class FrontHalving(FIFOScheduler):  # type: ignore[misc]
    """Asynchronous successive halving for a front (Schmucker et al. 2021, arXiv:2106.12639), which Tune's own, on one
    figure, is not: it would keep the middle of the front and stop the ends.

    At a rung a trial goes on where it is among the best 1/factor of those that came there so far, itself included; the
    best one always does. Rungs lie at `grace` times the powers of the factor, and a factor before the end: a trained
    model is also measured.
    """

    def __init__(self, grace: int, factor: float, points: int) -> None:
        super().__init__()
        self._factor = factor
        self._rungs: dict[int, dict[str, Pair]] = {}  # point -> trial -> what it had there
        rung = float(grace)
        while rung * factor <= points:
            self._rungs[ceil(rung)] = {}
            rung *= factor

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        seen = self._rungs.get(result.get("point", 0))
        if seen is None:
            return str(TrialScheduler.CONTINUE)
        kept = result["retain_probability"]
        seen[trial.trial_id] = (1 - result["forget_probability"], 1.0 if kept is None else kept)
        names = list(seen)
        place = best_first(list(seen.values())).index(names.index(trial.trial_id))
        return str(TrialScheduler.CONTINUE if place < max(1, len(seen) / self._factor) else TrialScheduler.STOP)


class Median(MedianStoppingRule):  # type: ignore[misc]
    """Beside trials that ended without any signal, because they failed: Tune's own looks for one in each."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if ON_SIGNAL["time_attr"] in result:
            super().on_trial_complete(tune_controller, trial, result)
