"""`obliviate continual`: forget sets one after another, and after every step all of them measured ("A Closer Look",
arXiv:2410.08109, section 4.3, whose own code measures the step's set alone).

Each step starts from the last one's model and is a run of its own: a job that was killed goes on where it stopped.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from obliviate import storage
from obliviate.config import FinetuneRun, UnlearnRun, build
from obliviate.data.continual import AnyTasks, ContinualData, TaskSequence
from obliviate.runs import Run, write_json
from obliviate.schema import ClusterSpec, ModelSpec, OptimSpec
from obliviate_eval.asked import suite_of
from obliviate_eval.forgetting import ForgettingMatrix, check, forgetting_matrix
from obliviate_eval.records import RECORDS_FILE, read_records
from obliviate_eval.report.forgetting import forgetting_section, matrix_table
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.summary import METRICS_FILE, Evaluation
from obliviate_recipes import reporting
from obliviate_recipes.events import Events
from obliviate_recipes.recipe import Recipe
from obliviate_recipes.several import FinetuneSpec, Method, MethodsRun, check_names, sampled_by
from obliviate_recipes.stage import Stage
from obliviate_recipes.stages.composed import unlearning_stage
from obliviate_recipes.stages.finetuning import Finetune
from obliviate_recipes.stages.measure import Figures, Measuring
from obliviate_recipes.stages.opening import opened

MATRIX = "matrix.json"


class ContinualMethod(Method):
    """An entry of `methods`."""

    # What NPO, DPO and KL compare with at a step: the model that it starts from, or that of the first step.
    reference_step: Literal["previous", "first"] = "previous"


class ContinualRun(MethodsRun):
    """`obliviate continual`: each method works through all tasks, from the same model."""

    title: str = "Continual unlearning"
    model: ModelSpec  # the base model; where finetune is null, the model that must forget
    data: AnyTasks
    finetune: FinetuneSpec | None = None  # makes the model that must forget, from all tasks and what is kept
    methods: tuple[ContinualMethod, ...] = Field(min_length=1)
    optim: OptimSpec = OptimSpec()  # of each step
    evaluation: EvaluationSpec = EvaluationSpec()
    cluster: ClusterSpec = ClusterSpec()
    seed: int = Field(default=0, ge=0)
    runs: str = "runs"

    @model_validator(mode="after")
    def _check_methods(self) -> "ContinualRun":
        for each in self.methods:
            # Of the second step: the first has no reference of its own.
            self.unlearning(each, 2, self.model, self.model).check_measured_bare()
        check_names([self.name_of(each) for each in self.methods])
        if self.model.lora is not None and not self.model.lora.merge:
            raise ValueError(
                "model.lora.merge: false keeps an adapter; the next step starts from a whole model: set true"
            )
        return self

    def name_of(self, method: ContinualMethod) -> str:
        return method.name or self.unlearning(method, 1, self.model, self.model).label

    def unlearning(self, method: ContinualMethod, step: int, model: ModelSpec, first: ModelSpec) -> UnlearnRun:
        """The full config of one step from `model`; `first` is the model that the first step starts from."""
        values = {
            "name": f"{method.name}-step-{step}" if method.name else "",
            "model": {**self.model.at(model.source).model_dump(), "revision": model.revision},
            "data": ContinualData(sequence=self.data, step=step).model_dump(),
            **method.unlearning_keys,
            "alternatives": sampled_by(self.evaluation.engine, method.alternatives),
            "optim": {**self.optim.model_dump(), **method.optim},
            "cluster": self.cluster.model_dump(),
            "seed": self.seed,
            "runs": self.runs,
        }
        if method.reference_step == "first" and step > 1:
            values["reference"] = _like(first, first.source).model_dump()
        run = build(UnlearnRun, values, where=f"methods.{self.methods.index(method)}")
        return run if method.name else run.model_copy(update={"name": f"{run.label}-step-{step}"})

    def finetuning(self, model: ModelSpec) -> FinetuneRun:
        """At the first step forget set and retain set together are everything."""
        assert self.finetune is not None
        values = {
            "name": "target",
            "model": model.model_dump(),
            "data": ContinualData(sequence=self.data, step=1).model_dump(),
            "optim": self.finetune.optim.model_dump(),
            "cluster": self.cluster.model_dump(),
            "seed": self.seed,
            "runs": self.runs,
        }
        return build(FinetuneRun, values, where="finetune")


class Continual(Recipe[ContinualRun, Path]):
    """Each step starts from the last one's model."""

    takes: ClassVar = ContinualRun
    reports: ClassVar = True

    @cached_property
    def tasks(self) -> TaskSequence:
        return self.config.data.load_tasks()

    @cached_property
    def measuring(self) -> Measuring:
        config = self.config
        return Measuring(self.tasks.corpus(1), config.evaluation, config.cluster.address, config.runs)

    @cached_property
    def target(self) -> tuple[ModelSpec, tuple[Stage, ...]]:
        """The model that must forget, and what makes it."""
        config = self.config
        if config.finetune is None:
            return config.model, ()
        opening = opened(config.model, config.runs)
        base, needs = (config.model, ()) if opening is None else (opening.model, (opening,))
        stage = Finetune(config.finetuning(base), self.tasks.corpus(1), needs)
        return stage.model, (stage,)

    @cached_property
    def before(self) -> Figures:
        """Of the model that must forget."""
        model, made_by = self.target
        return self.measuring.figures("target", model, None, made_by)

    @cached_property
    def steps(self) -> dict[str, list[Figures]]:
        """Method -> its model's after every step."""
        config, (first, made_by) = self.config, self.target
        found: dict[str, list[Figures]] = {}
        for method in config.methods:
            name, model, before = config.name_of(method), first, made_by
            found[name] = []
            for step in range(1, len(self.tasks.tasks) + 1):
                run = config.unlearning(method, step, model, first)
                unlearned = unlearning_stage(run, self.tasks.corpus(step), before)
                model = _like(config.model, unlearned.model.source)
                before = (*made_by, unlearned)
                found[name].append(self.measuring.figures(f"{name} step {step}", model, None, (unlearned,)))
        return found

    @cached_property
    def stages(self) -> Sequence[Stage]:
        check(suite_of(self.config.evaluation))
        after = [figures for steps in self.steps.values() for each in steps for figures in (*each.records.needs, each)]
        return [self.before, *after]

    def conclude(self, events: Events) -> Path:
        """The path of the report."""
        config, matrices = self.config, []
        for name, steps in self.steps.items():
            folders = [each.run.directory for each in (self.before, *steps)]
            matrices.append(_matrix(name, self.tasks, folders, config))
            events.shown(matrix_table(matrices[-1]))
        whole = config.model_dump(mode="json", exclude={"tracking"})
        run = Run.at(Path(config.runs), "continual", config.title, whole, {}).begin()
        write_json(run.directory / MATRIX, [_as_json(each) for each in matrices])
        report = run.directory / reporting.REPORT
        last = [self.before, *(steps[-1] for steps in self.steps.values())]
        models = [reporting.model_report(each.run.directory) for each in last]
        reporting.write(config.title, models, report, events, sections=[forgetting_section(matrices)])
        events.said(f"matrices: {storage.name(run.directory / MATRIX)}")
        events.ended(run.directory)
        return report


def _like(model: ModelSpec, source: str) -> ModelSpec:
    """The whole model at `source`, laid out as `model` is."""
    revision = model.revision if source == model.source else None
    return model.at(source).model_copy(update={"lora": None, "revision": revision})


def _matrix(name: str, sequence: TaskSequence, folders: list[Path], config: ContinualRun) -> ForgettingMatrix:
    return forgetting_matrix(
        name,
        [task.measured.name for task in sequence.tasks],
        [read_records(folder / RECORDS_FILE) for folder in folders],
        [Evaluation.read(folder / METRICS_FILE) for folder in folders],
        suite_of(config.evaluation),
        resamples=config.evaluation.resamples,
        seed=config.evaluation.seed,
    )


def _as_json(matrix: ForgettingMatrix) -> dict[str, Any]:
    steps = range(len(matrix.efficacy))
    derived = {"leakage": [matrix.leakage(i) for i in steps], "spill": [matrix.spill(i) for i in steps]}
    return {**matrix.model_dump(mode="json"), **derived}
