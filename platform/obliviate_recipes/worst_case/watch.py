"""What a user sees of a running search for the worst case: Ray Tune calls back into this."""

from typing import Any

from ray.tune import Callback

from obliviate_recipes.events import Events
from obliviate_recipes.sweeps.space import Point
from obliviate_recipes.worst_case.spec import called


class Watch(Callback):  # type: ignore[misc]
    """A line for each trial that ends."""

    def __init__(self, total: int, events: Events) -> None:
        self._total, self._events = total, events
        self.ended: dict[str, tuple[Point, str | None]] = {}  # Tune's id -> the point, and why it failed

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks, for its own way to resume, which a sweep does not use."""
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = trial.last_result
        cause = result.get("cause")
        told = f"not counted: {cause}" if cause else f"brings back {result['found']:.3f} within the budget"
        self._end(trial, cause, told)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial, "its process died", "not counted: its process died")

    def _end(self, trial: Any, cause: str | None, told: str) -> None:
        point = Point(trial.config["method"], trial.config["values"])
        self.ended[trial.trial_id] = (point, cause)
        tell = self._events.said if cause is None else self._events.warned
        tell(f"{len(self.ended)}/{self._total} {called(point)}: {told}")
