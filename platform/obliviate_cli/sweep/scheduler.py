"""Which trials are stopped early, as Ray Tune asks for it: its schedulers, on the signal."""

from math import inf
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from obliviate_cli.sweep.spec import ASHAScheduler, MedianScheduler, SweepRun

ON_SIGNAL = {"time_attr": "point", "metric": "signal", "mode": "max"}


def open_scheduler(config: SweepRun) -> TrialScheduler:
    """The last rung of successive halving lies before the end of training: a trained model is also measured."""
    match config.scheduler:
        case ASHAScheduler(grace=grace, reduction_factor=factor):
            return AsyncHyperBandScheduler(
                **ON_SIGNAL,
                grace_period=grace,
                reduction_factor=factor,
                max_t=config.signal.points - 1,
                stop_last_trials=False,
            )
        case MedianScheduler(grace=grace, min_trials=trials):
            # Never pausing a trial until others have come as far: it would begin anew, in another process.
            return Median(**ON_SIGNAL, grace_period=grace + 1, min_samples_required=trials, min_time_slice=inf)
        case _:
            return FIFOScheduler()


class Median(MedianStoppingRule):  # type: ignore[misc]
    """Beside trials that ended without any signal, because they failed: Tune's own looks for one in each."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if ON_SIGNAL["time_attr"] in result:
            super().on_trial_complete(tune_controller, trial, result)
