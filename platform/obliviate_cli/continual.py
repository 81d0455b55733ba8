"""`obliviate continual`: forget sets one after another, and after every step all of them measured ("A Closer Look",
arXiv:2410.08109, section 4.3, whose own code measures the step's set alone).

Each step starts from the last one's model and is a run of its own: a job that was killed goes on where it stopped.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from rich.console import Console

from obliviate import storage
from obliviate.config import FinetuneRun, UnlearnRun, build, load
from obliviate.data.continual import AnyTasks, ContinualData, TaskSequence
from obliviate.runs import Run, write_json
from obliviate.schema import ClusterSpec, ModelSpec, OptimSpec
from obliviate_cli import plan, reporting, stages
from obliviate_cli.compare import FinetuneStage, Method, MethodsRun, check_names, sampled_by
from obliviate_cli.console import open_console
from obliviate_cli.measure import Measure
from obliviate_cli.verbs import show
from obliviate_eval.asked import suite_of
from obliviate_eval.forgetting import ForgettingMatrix, check, forgetting_matrix
from obliviate_eval.records import RECORDS_FILE, read_records
from obliviate_eval.report.forgetting import forgetting_section, print_matrix
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.summary import METRICS_FILE, Evaluation

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
    finetune: FinetuneStage | None = None  # makes the model that must forget, from all tasks and what is kept
    methods: tuple[ContinualMethod, ...] = Field(min_length=1)
    optim: OptimSpec = OptimSpec()  # of each step
    evaluation: EvaluationSpec = EvaluationSpec()
    cluster: ClusterSpec = ClusterSpec()
    seed: int = Field(0, ge=0)
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


def main(path: Path, overrides: list[str], dry_run: bool) -> None:
    config, console = load(ContinualRun, path, overrides), open_console()
    check(suite_of(config.evaluation))
    if dry_run:
        show(config, plan_lines(config), console)
    else:
        continual(config, console)


def plan_lines(config: ContinualRun) -> list[str]:
    steps = range(1, len(config.data.load_tasks().tasks) + 1)
    lines = [] if config.finetune is None else plan.finetune(config.finetuning(config.model))
    for method in config.methods:
        for step in steps:
            planned = plan.unlearn(config.unlearning(method, step, config.model, config.model))
            lines += [f"{config.name_of(method)}, step {step}: {planned[0]}", *planned[1:]]
    models = 1 + len(steps) * len(config.methods)
    return [
        *dict.fromkeys(lines),
        f"evaluate {models} models on all tasks",
        f"report in {storage.name(storage.local(config.runs))}",
    ]


def continual(config: ContinualRun, console: Console) -> Path:
    """Run what is not done yet; the path of the report."""
    sequence = config.data.load_tasks()
    measure = Measure(sequence.corpus(1), config.evaluation, config.cluster.address, Path(config.runs), console)
    target = _target(config, console)
    before = measure("target", target)
    matrices, last = [], [before]
    for method in config.methods:
        folders, model, name = [before], target, config.name_of(method)
        for step in range(1, len(sequence.tasks) + 1):
            folder = stages.unlearn(config.unlearning(method, step, model, target), console)
            model = _like(config.model, storage.name(folder))
            folders.append(measure(f"{name} step {step}", model))
        matrices.append(_matrix(name, sequence, folders, config))
        print_matrix(matrices[-1], console)
        last.append(folders[-1])
    run = Run.open(Path(config.runs), "continual", config.title, config.model_dump(mode="json"), {})
    write_json(run.directory / MATRIX, [_as_json(each) for each in matrices])
    report = run.directory / reporting.REPORT
    reporting.write(
        config.title,
        [reporting.model_report(each) for each in last],
        report,
        console,
        sections=[forgetting_section(matrices)],
    )
    console.print(f"matrices: {storage.name(run.directory / MATRIX)}")
    return report


def _target(config: ContinualRun, console: Console) -> ModelSpec:
    """The model that must forget."""
    if config.finetune is None:
        return config.model
    base = stages.opened_alike(config.model, config.runs)
    return _like(config.model, storage.name(stages.finetune(config.finetuning(base), console)))


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
