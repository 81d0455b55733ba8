"""The samplers as Ray Tune asks for them: a point becomes one trial for each seed, and is told once all have ended."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from ray.tune.search import Searcher

from obliviate_recipes.sweeps.front import Figures
from obliviate_recipes.sweeps.records import Trial
from obliviate_recipes.sweeps.sampler import Sampler
from obliviate_recipes.sweeps.space import Point


def figures_in(result: Mapping[str, Any]) -> Figures | None:
    """Of an unlearning trial, as it told them."""
    if "forget" not in result:
        return None
    survives = () if result.get("survives") is None else (result["survives"],)
    return (result["forget"], result["utility"], *survives)


class Search(Searcher):  # type: ignore[misc]
    """Tune's own state of it is not kept: a resumed sweep is proposed again, and what is on disk is not done again."""

    def __init__(
        self,
        sampler: Sampler,
        seeds: Sequence[int],
        figures: Callable[[Mapping[str, Any]], Figures | None] = figures_in,
    ) -> None:
        """`figures`: of what a trial told last; None where it ended without any."""
        super().__init__()
        self._figures = figures
        self._sampler, self._seeds = sampler, seeds
        self._waiting: list[Trial] = []
        self._running: dict[str, Trial] = {}  # Tune's id -> ours
        self._found: dict[str, list[Figures | None]] = {}  # point -> of its ended trials

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, for the same reason: Tune pickles its searcher."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        if not self._waiting:
            point = self._sampler.propose()
            if point is None:
                return str(Searcher.FINISHED)
            self._waiting = [Trial(point, seed) for seed in self._seeds]
        trial = self._running[trial_id] = self._waiting.pop(0)
        return {"method": trial.point.method, "values": dict(trial.point.values), "seed": trial.seed}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self._running.pop(trial_id, None)
        if trial is None:
            return
        self._end(trial.point, None if error or result is None else self._figures(result))

    def _end(self, point: Point, found: Figures | None) -> None:
        ended = self._found.setdefault(point.id, [])
        ended.append(found)
        if len(ended) == len(self._seeds):
            whole = [figures for figures in ended if figures is not None]
            complete = len(whole) == len(ended)
            mean = tuple(fmean(each) for each in zip(*whole, strict=True)) if complete else None
            self._sampler.learn(point, mean)

    def save(self, checkpoint_path: str) -> None:
        """Nothing."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep is resumed by proposing it again, not from Tune's state")
