"""A suite written in a config: any metrics, comparisons, and aggregates of them."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from obliviate.config_file import RunSpec, build, nearest
from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate.plugins import by_name
from obliviate.schema import Spec
from obliviate_eval.aggregates import Aggregate, mean
from obliviate_eval.metrics import AnyComparisonSpec, AnyMetricSpec
from obliviate_eval.statistics import Floats, harmonic_mean
from obliviate_eval.suites import CUSTOM, SUITES
from obliviate_eval.suites.base import Suite

COMBINE: dict[str, Callable[[Floats], Floats] | None] = {
    "mean": mean, "harmonic_mean": harmonic_mean, "mean_over_items": None,
}  # fmt: skip


class AggregateSpec(Spec):
    """A number of several: the figures of `metrics` on each set with one of `roles`, and those named by `parts`."""

    name: str = Field(min_length=1)
    metrics: tuple[str, ...] = ()
    roles: tuple[Role, ...] = ()
    sets: tuple[str, ...] = ()  # names or patterns of the sets that count; empty: all of these roles
    parts: tuple[str, ...] = ()  # comparisons, and aggregates that stand before this one
    tasks: tuple[str, ...] = ()  # of the harness
    turned: tuple[Role, ...] = ()  # the roles whose figures enter as 1 - theirs
    combine: Literal["mean", "harmonic_mean", "mean_over_items"] = "mean"

    @model_validator(mode="after")
    def _of_something(self) -> "AggregateSpec":
        if bool(self.metrics) != bool(self.roles):
            raise ValueError(f"{self.name}: metrics and roles go together: name both, or parts or tasks alone")
        if not (self.metrics or self.parts or self.tasks):
            raise ValueError(f"{self.name}: is made of nothing; name metrics with roles, parts or tasks")
        return self

    def aggregate(self) -> Aggregate:
        return Aggregate(
            self.name, self.name, "config", self.roles, self.metrics, COMBINE[self.combine], self.parts, self.sets,
            self.tasks, self.turned,
        )  # fmt: skip


class SuiteSpec(RunSpec):
    """NLI models are asked as in the suite `custom`."""

    metrics: tuple[AnyMetricSpec, ...] = Field(min_length=1)
    comparisons: tuple[AnyComparisonSpec, ...] = ()
    aggregates: tuple[AggregateSpec, ...] = ()
    sets: dict[str, tuple[str, ...]] = Field(default={})  # a set's name or pattern -> its metrics; others have all

    @classmethod
    def long_form(cls, values: Any) -> Any:
        """A name alone is a metric or a comparison with its defaults."""
        if not isinstance(values, Mapping):
            return values
        listed = {key: values[key] for key in ("metrics", "comparisons") if isinstance(values.get(key), list | tuple)}
        named = {
            key: [by_name(each) if isinstance(each, str) else each for each in given] for key, given in listed.items()
        }
        return {**values, **named}

    @model_validator(mode="after")
    def _names(self) -> "SuiteSpec":
        metrics = [each.type for each in self.metrics]
        named = [*metrics, *(each.type for each in self.comparisons), *(each.name for each in self.aggregates)]
        if twice := [name for name, count in Counter(named).items() if count > 1]:
            raise ValueError(f"{twice[0]} is there twice, and figures go by that name; keep one")
        asked = [(f"sets.{name}", each) for name, types in self.sets.items() for each in types]
        asked += [(f"aggregates: {one.name}", each) for one in self.aggregates for each in one.metrics]
        for where, each in asked:
            if each not in metrics:
                raise ValueError(f"{where}: {each} is none of metrics; add it there")
        before: list[str] = [each.type for each in self.comparisons]
        for one in self.aggregates:
            if unknown := [part for part in one.parts if part not in before]:
                raise ValueError(
                    f"aggregates: {one.name}: {unknown[0]} is neither a comparison nor an aggregate before it; add it"
                )
            before.append(one.name)
        return self

    def suite(self) -> Suite:
        return Suite(
            name="own",
            title="A suite of the config's own",
            metrics=self.metrics,
            comparisons=self.comparisons,
            aggregates=tuple(each.aggregate() for each in self.aggregates),
            premise=CUSTOM.premise,
            sets=self.sets,
        )


def read_suite(value: Any) -> Any:
    """Of a config's `suite`: a name as it is, keys as a suite of one's own, whose mistakes are told by their keys."""
    if isinstance(value, str) and value not in SUITES:
        raise ValueError(f"is not known; {nearest(value, list(SUITES))}")
    if not isinstance(value, Mapping):
        return value
    try:
        return build(SuiteSpec, value, where="suite")
    except UserError as error:
        raise ValueError(str(error).removeprefix("suite: ")) from error
