"""What a suite is: the metrics of single items, the aggregates of their means, and which way entailment is asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from obliviate.data.rows import Role
from obliviate_eval.aggregates import Aggregate
from obliviate_eval.metrics import AnyMetric
from obliviate_eval.records import Probe


@dataclass(frozen=True)
class Suite:
    name: str
    title: str
    metrics: tuple[AnyMetric, ...]
    aggregates: tuple[Aggregate, ...]
    premise: Mapping[Role, Literal["generation", "reference"]]  # of the NLI question; the other text is its hypothesis

    @property
    def needs(self) -> frozenset[Probe]:
        """The probes of all metrics together: each text is generated for, or scored, once."""
        return frozenset[Probe]().union(*(metric.needs for metric in self.metrics))

    def needs_of(self, name: str, role: Role) -> frozenset[Probe]:
        """The probes of everything that asks for the set: each text is generated for, or scored, once."""
        return self.needs
