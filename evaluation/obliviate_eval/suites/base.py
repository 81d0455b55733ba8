"""What a suite is: which metrics of which sets, the comparisons, the aggregates, and which way entailment is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

from obliviate.data.rows import Role
from obliviate_eval.aggregates import Aggregate
from obliviate_eval.metrics import AnyComparison, AnyMetric
from obliviate_eval.records import Probe

Value = TypeVar("Value")


@dataclass(frozen=True)
class Suite:
    """`sets`: name of a set, or a pattern ("forget_*"), -> the types of the metrics that are reported of it. A set that
    isn't named gets all of them; a holdout set gets none, because only comparisons ask for it.
    """

    name: str
    title: str
    metrics: tuple[AnyMetric, ...]
    aggregates: tuple[Aggregate, ...] = ()
    comparisons: tuple[AnyComparison, ...] = ()
    # Of the NLI question: which text is the premise; the other is its hypothesis. Empty where nothing asks for it.
    premise: Mapping[Role, Literal["generation", "reference"]] = field(default_factory=dict)
    sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # As published: the most new tokens of a set's generations, where fewer are not asked for; and the sets whose truth
    # is cut to as many tokens as may be generated, the beginning of sequence counted.
    new_tokens: Mapping[str, int] = field(default_factory=dict)
    cut_truths: frozenset[str] = frozenset()
    # As published: the sets whose generations are cut to as many tokens as their truth has.
    as_long_as_truth: frozenset[str] = frozenset()

    def metrics_of(self, name: str, role: Role) -> tuple[AnyMetric, ...]:
        """Those that are reported of the set."""
        reported = _named(self.sets, name)
        if reported is not None:
            return tuple(metric for metric in self.metrics if metric.type in reported)
        return () if role is Role.HOLDOUT else self.metrics

    def new_tokens_of(self, name: str) -> int | None:
        """The most that are generated for the set, as published; None where nothing is said."""
        return _named(self.new_tokens, name)

    def needs_of(self, name: str, role: Role) -> frozenset[Probe]:
        """The probes of everything that asks for the set: each text is generated for, or scored, once."""
        asking = [metric.needs_of(role) for metric in self.metrics_of(name, role)]
        asking += [comparison.probes for comparison in self.comparisons if comparison.asks(name, role)]
        return frozenset[Probe]().union(*asking)

    @property
    def needs(self) -> frozenset[Probe]:
        """The probes of all sets together."""
        return frozenset[Probe]().union(*(each.probes for each in (*self.metrics, *self.comparisons)))


def _named(of: Mapping[str, Value], name: str) -> Value | None:
    """What the first name or pattern says that fits."""
    return next((value for pattern, value in of.items() if fnmatchcase(name, pattern)), None)
