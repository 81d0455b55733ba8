"""`obliviate evaluate`: models side by side on the same items."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from obliviate import storage
from obliviate.data import DataSpec
from obliviate.schema import ModelSpec
from obliviate.tracking import Tracked
from obliviate_eval.report.terminal import Comparison
from obliviate_eval.spec import EvaluationSpec
from obliviate_recipes.events import Events
from obliviate_recipes.recipe import OfData
from obliviate_recipes.reporting import model_report
from obliviate_recipes.stages.measure import Figures, Measuring


class EvaluateRun(Tracked):
    """`obliviate evaluate`: models measured side by side on the same items."""

    models: dict[str, ModelSpec] = Field(min_length=1)  # name -> model
    retain_model: str | None = None  # the name of the one that never saw the forget set: gives forget quality
    data: DataSpec
    evaluation: EvaluationSpec = EvaluationSpec()  # of the suite robustness, `questions` is formats if not given
    address: str | None = None  # of the Ray cluster, as in cluster.address
    runs: str = "runs"

    @field_validator("evaluation", mode="before")
    @classmethod
    def _in_every_form(cls, given: Any) -> Any:
        """Of the suite robustness, where nothing else is said."""
        if isinstance(given, Mapping) and given.get("suite") == "robustness":
            return {"questions": "formats", **given}
        return given

    @model_validator(mode="after")
    def _retain_model_is_one(self) -> "EvaluateRun":
        if self.retain_model is not None and self.retain_model not in self.models:
            raise ValueError(f"retain_model: {self.retain_model!r} is not among models: {', '.join(self.models)}")
        return self


class Evaluate(OfData[EvaluateRun, list[Path]]):
    """Measures models on the same items."""

    takes: ClassVar = EvaluateRun

    @cached_property
    def stages(self) -> Sequence[Figures]:
        """That of the retain model first."""
        config = self.config
        measuring = Measuring(self.corpus, config.evaluation, config.address, config.runs)
        name = config.retain_model
        retain = None if name is None else measuring.figures(name, config.models[name])
        others = [measuring.figures(each, model, retain) for each, model in config.models.items() if each != name]
        return others if retain is None else [retain, *others]

    def conclude(self, events: Events) -> list[Path]:
        """The folders of the evaluation runs."""
        measured = [stage.run.directory for stage in self.stages]
        reports = [model_report(each) for each in measured]
        events.shown(Comparison(reports))
        for report in reports:
            for task, figures in report.evaluation.tasks.items():
                shown = (f"{name} {'–' if f.value is None else f'{f.value:.3f}'}" for name, f in figures.items())
                events.said(f"{report.name}, {task}: {', '.join(shown)}")
        for each in measured:
            events.said(f"records and figures: {storage.name(each)}")
        return measured
