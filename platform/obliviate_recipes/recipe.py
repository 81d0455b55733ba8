"""A recipe: what a config comes to, as the one list of stages that running, planning and estimating read."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from obliviate import storage
from obliviate.config_file import RunSpec
from obliviate.data import DataSpec
from obliviate.data.rows import Corpus
from obliviate_recipes.events import Events
from obliviate_recipes.stage import Stage, all_of, perform

if TYPE_CHECKING:
    from obliviate_recipes.costs.estimate import Part
    from obliviate_recipes.costs.hardware import Cluster
    from obliviate_recipes.costs.hosted import Requested

C = TypeVar("C", bound=RunSpec)
R = TypeVar("R")


class Recipe(ABC, Generic[C, R]):
    """`R`: what is at hand when all is made."""

    takes: ClassVar[type[RunSpec]]
    reports: ClassVar[bool] = False  # whether it ends in a report

    def __init__(self, config: C) -> None:
        self.config = config

    @cached_property
    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """Those whose results are wanted, in order. What they need comes with them."""

    @abstractmethod
    def conclude(self, events: Events) -> R:
        """Of what is made: a report, or where it lies."""

    @property
    def warnings(self) -> Sequence[str]:
        """Of what is said before the stages: the data's."""
        return ()

    @property
    def at_a_time(self) -> int:
        """Of stages that are alike."""
        return 1

    def perform(self, events: Events) -> R:
        """Make what is not done yet. Raises UserError."""
        for warning in self.warnings:
            events.warned(warning)
        perform(self.stages, events)
        return self.conclude(events)

    def outline(self) -> Iterator[str]:
        """What there is to do, a line or a few for each stage. Raises UserError for what could not be done."""
        lines = [f"warning: {warning}" for warning in self.warnings]
        for stage in all_of(self.stages):
            if stage.done:
                lines.append(f"{stage.title}: done already, in {storage.name(stage.run.directory)}")
            else:
                lines += stage.outline()
        yield from dict.fromkeys(lines)  # what is said of the data once, not for each stage
        yield from self.afterwards()
        if self.reports:
            yield f"report in {storage.name(storage.local(self.runs))}"

    def afterwards(self) -> Iterator[str]:
        """What there is to do that is known only when the stages are made."""
        yield from ()

    @property
    def runs(self) -> str:
        """The folder of all runs."""
        runs: str = self.config.runs  # type: ignore[attr-defined]
        return runs

    def estimate(self, cluster: "Cluster") -> "list[Part]":
        """What all of it costs, whether or not some is done."""
        from obliviate_recipes.costs.estimate import estimate

        return estimate((work for stage in all_of(self.stages) for work in stage.work()), cluster, self.at_a_time)

    def requested(self) -> "list[Requested]":
        """What is asked of hosted models, whether or not some is done."""
        from obliviate_recipes.costs.hosted import Requested

        works = (work for stage in all_of(self.stages) for work in stage.work())
        return [work for work in works if isinstance(work, Requested)]


class OfData(Recipe[C, R]):
    """Of a config with `data`."""

    @cached_property
    def corpus(self) -> Corpus:
        data: DataSpec = self.config.data  # type: ignore[attr-defined]
        return data.load()

    @property
    def warnings(self) -> Sequence[str]:
        return self.corpus.warnings
