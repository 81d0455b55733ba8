"""`obliviate compare`, the main job: several methods on one model, all measured on the same items, one report.

Every stage is a run of its own, so that a job that was killed goes on where it stopped, and two jobs that share a
stage share its result.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator

from obliviate.config import (
    UnlearnRun,
    build,
)
from obliviate.data.rows import Corpus
from obliviate.runs import Run
from obliviate.schema import GuardrailSpec, ModelSpec, Seed
from obliviate_recipes.events import Events
from obliviate_recipes.pooled import model_reports
from obliviate_recipes.recipe import OfData
from obliviate_recipes.reporting import REPORT, write
from obliviate_recipes.several import (
    ComparedModels,
    Method,
    MethodsRun,
    Models,
    check_names,
    check_seeds,
    judge_of,
    sampled_by,
)
from obliviate_recipes.stage import Stage
from obliviate_recipes.stages.measure import Figures, Measuring
from obliviate_recipes.stages.training import unlearning_stage


class CompareRun(MethodsRun, ComparedModels):
    """`obliviate compare`: several methods on one model and one forget set, side by side."""

    methods: tuple[Method, ...] = Field(min_length=1)
    # Each method is trained with each, from the same model, and its figures are means over them; empty: `seed` alone.
    seeds: tuple[Seed, ...] = ()

    @model_validator(mode="after")
    def _check_methods(self) -> "CompareRun":
        check_names([self.unlearning(each, "").name for each in self.methods])
        check_seeds(self.seeds)
        return self

    def unlearnings(self, method: Method, source: str) -> list[UnlearnRun]:
        """Of one method on the model at `source`, with every seed."""
        return [self.unlearning(method, source, seed) for seed in self.seeds or (self.seed,)]

    def unlearning(self, method: Method, source: str, seed: int | None = None) -> UnlearnRun:
        """The full config of one method on the model at `source`; without a seed, that of the job."""
        values = {
            "name": method.name,
            "model": self.model.at(source).model_dump(),
            "data": self.data.model_dump(),
            **method.unlearning_keys,
            "alternatives": sampled_by(self.evaluation.engine, method.alternatives),
            "optim": {**self.optim.model_dump(), **method.optim},
            "cluster": self.cluster.model_dump(),
            "seed": self.seed if seed is None else seed,
            "runs": self.runs,
        }
        run = build(UnlearnRun, values, where=f"methods.{self.methods.index(method)}")
        return run if method.name else run.model_copy(update={"name": run.label})


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
        for run in (run for method in config.methods for run in config.unlearnings(method, made.target.source)):
            unlearned = unlearning_stage(run, corpus, made.before)
            name = run.name if len(config.seeds) < 2 else f"{run.name} seed {run.seed}"
            model = behind_marks(unlearned.model, run, corpus)
            found += [unlearned, measuring.figures(name, model, retain, (unlearned,))]
        return found

    def conclude(self, events: Events) -> Path:
        """The path of the report."""
        config = self.config
        measured = [stage.run.directory for stage in self.stages if isinstance(stage, Figures)]
        folder = (
            Run.at(Path(config.runs), "compare", config.title, config.model_dump(mode="json"), {}).begin().directory
        )
        write(config.title, model_reports(measured), folder / REPORT, events)
        return folder / REPORT


def behind_marks(model: ModelSpec, run: UnlearnRun, corpus: Corpus) -> ModelSpec:
    """A model that was taught to heed marks is measured behind those of all that it is to forget; others are bare."""
    if not run.method.hides:
        return model
    targets = tuple(dict.fromkeys(row.entity for row in corpus.forget if row.entity is not None))
    return model.model_copy(update={"guardrail": GuardrailSpec(type="in_context", targets=targets)})
