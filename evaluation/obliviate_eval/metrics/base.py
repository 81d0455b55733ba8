"""What a metric is: the probes it needs of an item, and a pure score of the item's record."""

from abc import ABC, abstractmethod
from typing import ClassVar

from obliviate.data.rows import Role
from obliviate.schema import Spec
from obliviate_eval.records import Probe, Record

KEPT = (Role.RETAIN, Role.REAL_AUTHORS, Role.WORLD_FACTS)  # the roles of what should be kept
WITH_OPTIONS = (Role.REAL_AUTHORS, Role.WORLD_FACTS)  # the roles whose answers are short and stand among false ones


class Metric(Spec, ABC):
    """A set's figure is the mean of its items' scores. `title`, `direction`, `source`: what `obliviate metrics` prints.

    The discriminator `type` is also the metric's name in results.
    """

    title: ClassVar[str]
    direction: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[frozenset[Probe]]

    type: str

    @property
    def probes(self) -> frozenset[Probe]:
        """`needs`, with what these parameters need besides."""
        return self.needs

    def needs_of(self, role: Role) -> frozenset[Probe]:
        """What it looks at in a set of that role."""
        return self.probes

    def of(self, record: Record) -> float | None:
        """The score, or what a log says of it."""
        return record.logged[self.type] if self.type in record.logged else self.score(record)

    @abstractmethod
    def score(self, record: Record) -> float | None:
        """In [0, 1], but for the losses and entropies that say otherwise; None where the record lacks what is needed or
        the model gave no finite number, never NaN."""
