"""Which point of the space comes next. Ray Tune asks through `search`; here is no Ray.

Optuna is asked and told directly, not through Ray's OptunaSearch: that one tells it the last figures of a trial that a
scheduler stopped as if they were final, knows no mean over seeds, and no space that depends on the method.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from obliviate_recipes.sweeps.front import Figures
from obliviate_recipes.sweeps.space import Axis, Point, Space, draws, grid
from obliviate_recipes.sweeps.spec import AnySampler, OptunaSampler, RandomSampler

if TYPE_CHECKING:
    import optuna

REPEATS = 200  # draws in a row that bring nothing new: the space is taken to be used up


class Searched(Protocol):
    """What is searched, and how."""

    @property
    def space(self) -> Space: ...
    @property
    def sampler(self) -> AnySampler: ...
    @property
    def objective_count(self) -> int: ...

    def canonical(self, point: Point) -> Point:
        """The same point, with its values as they are used."""
        ...


class Sampler(Protocol):
    """`count` is how many points it will propose at most, each of them once."""

    count: int

    def propose(self) -> Point | None:
        """The next point; None where there are no more."""
        ...

    def learn(self, point: Point, found: Figures | None) -> None:
        """Its means over the seeds; None where it has none, because trials failed or were stopped."""
        ...


def open_sampler(config: Searched, known: Sequence[Point]) -> Sampler:
    """`known`: points that an earlier run of the same sweep began, to come first. Raises UserError for a bad space."""
    match config.sampler:
        case OptunaSampler():
            return Optuna(config, config.sampler, known)
        case RandomSampler(trials=trials, seed=seed):
            return Listed(list(islice(_distinct(draws(config.space, seed), config.canonical), trials)))
        case _:
            return Listed(list(_distinct(iter(grid(config.space)), config.canonical)))


class Listed:
    """Points that are known from the start: a grid, or independent draws."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.count = len(points)
        self._points = iter(points)

    def propose(self) -> Point | None:
        return next(self._points, None)

    def learn(self, point: Point, found: Figures | None) -> None:
        """Independent of what was found."""


class Optuna:
    """Multi-objective TPE over methods and, below each, its own parameters.

    Resuming puts the known points in first, as if they had just been proposed: what was found of them is told again.
    """

    def __init__(self, config: Searched, spec: OptunaSampler, known: Sequence[Point]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.count = max(spec.trials, len(known))
        self._space, self._canonical = config.space, config.canonical
        sampler = optuna.samplers.TPESampler(n_startup_trials=spec.startup, seed=spec.seed)
        self._study = optuna.create_study(directions=["maximize"] * config.objective_count, sampler=sampler)
        self._asked: dict[str, optuna.trial.Trial] = {}
        self._found: dict[str, Figures | None] = {}
        for point in known:
            self._study.enqueue_trial(self._parameters(point))

    def propose(self) -> Point | None:
        if len(self._asked) >= self.count:
            return None
        for _ in range(REPEATS):
            trial = self._study.ask()
            point = self._canonical(self._point(trial))
            if point.id not in self._asked:
                self._asked[point.id] = trial
                return point
            self._tell(trial, self._found.get(point.id))
        return None

    def learn(self, point: Point, found: Figures | None) -> None:
        self._found[point.id] = found
        self._tell(self._asked[point.id], found)

    def _tell(self, trial: "optuna.trial.Trial", found: Figures | None) -> None:
        import optuna

        if found is None:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(trial, list(found))

    def _point(self, trial: "optuna.trial.Trial") -> Point:
        method = trial.suggest_categorical("method", list(self._space.methods))
        axes = self._space.axes(method)
        return Point(method, {name: _suggest(trial, f"{method}/{name}", axis) for name, axis in axes.items()})

    def _parameters(self, point: Point) -> dict[str, object]:
        """The point as the study names its parameters; of a list, the place of the value in it."""
        chosen: dict[str, object] = {"method": point.method}
        for name, axis in self._space.axes(point.method).items():
            value = point.values[name]
            if axis.values is not None:
                forms = [self._canonical(Point(point.method, {name: each})).values[name] for each in axis.values]
                value = forms.index(value)
            chosen[f"{point.method}/{name}"] = value
        return chosen


def _suggest(trial: "optuna.trial.Trial", key: str, axis: Axis) -> object:
    if axis.values is not None:
        return axis.values[trial.suggest_categorical(key, list(range(len(axis.values))))]
    assert axis.low is not None
    assert axis.high is not None
    if axis.whole:
        return trial.suggest_int(key, int(axis.low), int(axis.high), log=axis.log)
    return axis.tidy(trial.suggest_float(key, axis.low, axis.high, log=axis.log))


def _distinct(points: Iterator[Point], canonical: Callable[[Point], Point]) -> Iterator[Point]:
    """Each point once, in its canonical form; ends where nothing new comes any more."""
    seen: set[str] = set()
    repeats = 0
    for point in map(canonical, points):
        if point.id not in seen:
            seen.add(point.id)
            repeats = 0
            yield point
        elif (repeats := repeats + 1) >= REPEATS:
            return
