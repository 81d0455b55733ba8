"""`obliviate compare`, the main job: several methods on one model, all measured on the same items, one report.

Every stage is a run of its own, so that a job that was killed goes on where it stopped, and two jobs that share a
stage share its result.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from obliviate.runs import Run
from obliviate_recipes.events import Events
from obliviate_recipes.pooled import model_reports
from obliviate_recipes.recipe import OfData
from obliviate_recipes.reporting import REPORT, write
from obliviate_recipes.several import Method, Models, UnlearnedModels, judge_of, unlearned
from obliviate_recipes.stage import Stage
from obliviate_recipes.stages.measure import Figures, Measuring


class CompareRun(UnlearnedModels):
    """`obliviate compare`: several methods on one model and one forget set, side by side."""

    methods: tuple[Method, ...] = Field(min_length=1)


class Compare(OfData[CompareRun, Path]):
    """Makes the models, unlearns with each method, measures all of them on the same items, and reports."""

    takes: ClassVar = CompareRun
    reports: ClassVar = True

    @cached_property
    def stages(self) -> Sequence[Stage]:
        config, corpus = self.config, self.corpus
        address = config.cluster.address
        measuring = Measuring(corpus, config.evaluation, address, config.runs, nli=judge_of(config))
        made = Models.of(config, corpus)
        retain = None if made.retain is None else measuring.figures("retain", made.retain, None, made.before)
        target = measuring.figures("target", made.target, retain, made.before)
        found: list[Stage] = [*([] if retain is None else [retain]), target]
        for each in unlearned(config, made, corpus):
            found += [each.stage, measuring.figures(each.name, each.model, retain, (each.stage,))]
        return found

    def conclude(self, events: Events) -> Path:
        """The path of the report."""
        config = self.config
        measured = [stage.run.directory for stage in self.stages if isinstance(stage, Figures)]
        whole = config.model_dump(mode="json", exclude={"tracking"})
        folder = Run.at(Path(config.runs), "compare", config.title, whole, {}).begin().directory
        write(config.title, model_reports(measured), folder / REPORT, events)
        events.ended(folder)
        return folder / REPORT
