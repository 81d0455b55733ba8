"""The space of a sweep: methods, each with parameters of its own, and parameters that all methods have.

A parameter is named as an override of `obliviate unlearn` names it (method.beta, regularizers.0.weight,
optim.learning_rate, model.lora.rank), so that a point of the space is also the command that reproduces it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from itertools import product
from math import exp, log
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from obliviate.errors import UserError
from obliviate.methods import FORGET_DOOR, REGULARIZER_DOOR, expand
from obliviate.runs import content_hash
from obliviate.schema import (
    LatentSpec,
    LoraSpec,
    OptimSpec,
    ProjectionSpec,
    QuantisationSpec,
    RectificationSpec,
    SanitisationSpec,
    SharpnessSpec,
    Spec,
    StabilitySpec,
    TamperingSpec,
    UndoSpec,
)
from obliviate_recipes.stages.training import LEFT_OUT

WRAPPERS: Mapping[str, type[Spec]] = {  # around any forget objective: each is on or off (null), with keys of its own
    "sharpness": SharpnessSpec,
    "latent": LatentSpec,
    "projection": ProjectionSpec,
    "rectification": RectificationSpec,
    "stability": StabilitySpec,
    "quantisation": QuantisationSpec,
    "tampering": TamperingSpec,
    "sanitisation": SanitisationSpec,
    "undo": UndoSpec,
}


class Axis(Spec):
    """What one parameter may be: a list of values, or a range. A range with two whole ends holds whole numbers."""

    values: tuple[Any, ...] | None = None
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False  # of a range: even in the logarithm

    @model_validator(mode="after")
    def _list_or_range(self) -> "Axis":
        if (self.values is None) == (self.low is None) or (self.low is None) != (self.high is None):
            raise ValueError("give a list of values, or low and high of a range")
        if self.values is not None and not self.values:
            raise ValueError("the list is empty; give at least one value")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError("log: true needs a range with low above 0")
        return self

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[Any, ...]:
        """What must be valid for all of the axis to be."""
        return self.values if self.values is not None else (self.low, self.high)

    def draw(self, random: np.random.Generator) -> Any:
        """One value, each equally likely."""
        if self.values is not None:
            return self.values[int(random.integers(len(self.values)))]
        assert self.low is not None
        assert self.high is not None
        if self.log:
            return self.tidy(exp(random.uniform(log(self.low), log(self.high))))
        if self.whole:
            return int(random.integers(int(self.low), int(self.high) + 1))
        return self.tidy(float(random.uniform(self.low, self.high)))

    def tidy(self, value: float) -> float | int:
        """A number of the range as a reader would write it: whole, or to four significant digits."""
        assert self.low is not None
        assert self.high is not None
        return min(max(round(value) if self.whole else float(f"{value:.4g}"), self.low), self.high)


class Space(Spec):
    """Which methods, and of each which parameters."""

    methods: dict[str, dict[str, Axis]]  # short form -> its own parameters
    shared: dict[str, Axis] = Field(default={})  # parameters of every method

    @model_validator(mode="before")
    @classmethod
    def _short_axes(cls, values: Any) -> Any:
        """A list stands for its values, one value for a list of one, a list of methods for methods without axes."""
        if not isinstance(values, Mapping):
            return values
        methods = values.get("methods") or {}
        if isinstance(methods, list | tuple):
            methods = {name: {} for name in methods}
        if not isinstance(methods, Mapping):
            return values
        if not methods:
            raise ValueError("methods: the space is empty; name at least one method, for example methods: [npo+gd]")
        long = {name: axes_of(axes or {}) for name, axes in methods.items()}
        return {**values, "methods": long, "shared": axes_of(values.get("shared") or {})}

    def axes(self, method: str) -> dict[str, Axis]:
        """A method's own axis stands before a shared one of the same name."""
        return {**self.shared, **self.methods[method]}

    def first(self, method: str) -> "Point":
        """Every axis at its first value."""
        return Point(method, {name: axis.ends[0] for name, axis in self.axes(method).items()})

    def corners(self) -> Iterator["Point"]:
        """Of each method the first point, and those that differ from it along one axis: every value of a list, both
        ends of a range."""
        for method in self.methods:
            first = self.first(method)
            yield first
            for name, axis in self.axes(method).items():
                for value in axis.ends[1:]:
                    yield Point(method, {**first.values, name: value})

    def check_names(self) -> None:
        """Raises UserError for a parameter that a method does not have; lists those that it has."""
        for method in self.methods:
            known = parameters(method)
            axes = self.axes(method)
            for name in axes:
                if (whole := name.partition(".")[0]) != name and whole in axes:
                    raise UserError(f"space: {name}: {whole} is varied as a whole already; give one of the two")
                if name not in known:
                    near = get_close_matches(name, known, n=1)
                    raise UserError(
                        f"space: {name}: not a parameter of {method}; "
                        + (f"did you mean {near[0]}? " if near else "")
                        + f"{method} has: {', '.join(known)}"
                    )


def axes_of(axes: Any) -> Any:
    if not isinstance(axes, Mapping):
        return axes
    return {name: _axis(axis) for name, axis in axes.items()}


def _axis(axis: Any) -> Any:
    if isinstance(axis, Mapping | Axis):
        return axis
    return {"values": list(axis) if isinstance(axis, list | tuple) else [axis]}


def parameters(method: str) -> list[str]:
    """What a sweep may vary of a method, as overrides name it: all that changes what is learned.

    Raises UserError for a method that there is not.
    """
    terms = expand(method)
    names = [f"method.{name}" for name in FORGET_DOOR.class_of(terms["method"]).model_fields if name != "type"]
    for place, term in enumerate(terms["regularizers"]):
        fields = REGULARIZER_DOOR.class_of(term).model_fields
        names += [f"regularizers.{place}.{name}" for name in fields if name != "type"]
    names += [f"optim.{name}" for name in OptimSpec.model_fields if name not in LEFT_OUT["optim"]]
    names += [f"model.lora.{name}" for name in LoraSpec.model_fields if name != "merge"]
    for wrapper, spec in WRAPPERS.items():
        names += [wrapper, *(f"{wrapper}.{name}" for name in spec.model_fields)]
    names += [f"kl_budget.{name}" for name in ("nats", "rows", "every_steps")]
    return [*names, "pairing", "neighbours", "updates", "forget_learning_rate", "world"]


@dataclass(frozen=True)
class Point:
    """One configuration: a method and the value of each of its axes."""

    method: str
    values: Mapping[str, Any]

    @cached_property
    def id(self) -> str:
        return content_hash([self.method, dict(self.values)])[:8]

    @property
    def overrides(self) -> list[str]:
        """Of `obliviate unlearn`."""
        return [f"method={self.method}", *(f"{name}={json.dumps(value)}" for name, value in self.values.items())]


def grid(space: Space) -> list[Point]:
    """Every combination, method by method. Raises UserError where an axis is a range."""
    points = []
    for method in space.methods:
        axes = space.axes(method)
        for name, axis in axes.items():
            if axis.values is None:
                raise UserError(
                    f"space: {name}: a grid needs a list of values, this is a range from {axis.low} to {axis.high}; "
                    "give values, or sampler.type=random"
                )
        choices: Sequence[tuple[Any, ...]] = [axis.ends for axis in axes.values()]
        points += [Point(method, dict(zip(axes, values, strict=True))) for values in product(*choices)]
    return points


def draws(space: Space, seed: int) -> Iterator[Point]:
    """Random points without end: a method, each equally likely, then its parameters. May repeat itself."""
    random, methods = np.random.default_rng(seed), list(space.methods)
    while True:
        method = methods[int(random.integers(len(methods)))]
        yield Point(method, {name: axis.draw(random) for name, axis in space.axes(method).items()})
