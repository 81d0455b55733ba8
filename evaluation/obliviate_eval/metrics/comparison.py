"""What a comparison is: a number over whole sets, or over two models, where a metric scores one item at a time."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from obliviate.data.rows import Role
from obliviate.schema import Spec
from obliviate_eval.records import Probe, Record
from obliviate_eval.statistics import Estimate, Floats


@dataclass(frozen=True)
class Sample:
    """The items of one set, the same items of the reference model, and how often each resample holds each: [R, I]."""

    role: Role
    records: tuple[Record, ...]
    reference: tuple[Record | None, ...]  # of a model that never saw the forget set; None: not measured
    counts_RI: Floats

    @property
    def of_reference(self) -> "Sample":
        """The reference model's items in the model's place: under the same resamples, so that errors are paired."""
        own = tuple(record for record in self.reference if record is not None)
        kept = [record is not None for record in self.reference]
        return replace(self, records=own, reference=(None,) * len(own), counts_RI=self.counts_RI[:, kept])


Samples = Mapping[str, Sample]  # set -> its items


class Comparison(Spec, ABC):
    """`title`, `direction`, `source` are what `obliviate metrics` prints; `type` is also the name in results."""

    title: ClassVar[str]
    direction: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[frozenset[Probe]]

    type: str

    @property
    def probes(self) -> frozenset[Probe]:
        """`needs`, with what these parameters need besides."""
        return self.needs

    def asks(self, name: str, role: Role) -> bool:
        """Whether the set of that name and role enters: then its probes are run for it."""
        return role in (Role.FORGET, Role.HOLDOUT)

    @abstractmethod
    def estimate(self, samples: Samples) -> Estimate:
        """The number with its value under each resample; without a value where it can't be computed."""
