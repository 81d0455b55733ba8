"""The main job: make the models, unlearn with each method, measure all of them on the same items, report.

Every stage is a run of its own, so that a job that was killed goes on where it stopped, and two jobs that share a
stage share its result.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from rich.console import Console

from obliviate import storage
from obliviate.config import (
    AlternativesSpec,
    FinetuneRun,
    RunSpec,
    Unlearning,
    UnlearnOptions,
    UnlearnRun,
    build,
    expand_method,
)
from obliviate.config_file import merge
from obliviate.data import DataSpec
from obliviate.data.fictitious import nli_pairs
from obliviate.data.rows import Corpus
from obliviate.errors import UserError
from obliviate.runs import Run
from obliviate.schema import ClusterSpec, EngineSpec, GuardrailSpec, ModelSpec, OptimSpec, Seed, Spec
from obliviate_cli.measure import Measure
from obliviate_cli.pooled import model_reports
from obliviate_cli.reporting import REPORT, write
from obliviate_cli.stages import finetune, like, opened_alike, unlearn
from obliviate_eval.spec import EvaluationSpec

NEEDED_ACCURACY = 0.9  # of a trained NLI judge, on held-out people: below it entailment figures mean little


class FinetuneStage(Spec):
    """Makes the model that must forget, and the retain model, from the base model."""

    optim: OptimSpec = OptimSpec()


class Method(Unlearning):
    """An entry of `methods`: what is its own, over what the job has for all."""

    name: str = ""  # in tables; empty: the method's own name, ME+GD
    optim: dict[str, Any] = Field({})  # over the job's `optim`


class MethodsRun(UnlearnOptions, RunSpec):
    """A job with an entry for each of several methods, each of which takes what the job says and it does not itself."""

    @classmethod
    def long_form(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("methods"), list):
            methods = [{"method": each} if isinstance(each, str) else each for each in values["methods"]]
            return {**values, "methods": [expand_method(each) for each in methods]}
        return values

    @model_validator(mode="before")
    @classmethod
    def _options_for_all(cls, values: Any) -> Any:
        """Not in the long form, or overrides of the job's keys would come too late."""
        values = cls.long_form(values)
        if isinstance(values, dict) and isinstance(values.get("methods"), list):
            shared = {key: values[key] for key in UnlearnOptions.model_fields if key in values}
            methods = [merge(shared, each) if isinstance(each, dict) else each for each in values["methods"]]
            return {**values, "methods": methods}
        return values


def sampled_by(engine: EngineSpec, alternatives: AlternativesSpec) -> dict[str, Any]:
    """How other answers are sampled: by this engine where they name none."""
    return alternatives.model_copy(update={"engine": alternatives.engine or engine}).model_dump(mode="json")


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError where two entries of `methods` would be told apart by nothing."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"methods: two are called {name}; give each a `name` of its own")


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises ValueError where one is there twice."""
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds: {list(seeds)} holds one twice; give each once")


class JudgeStage(Spec):
    """Trains a small NLI model on generated people, where no other is at hand."""

    encoder: str  # what it starts from: a hub id, a folder, or package:NAME
    people: int = Field(40, ge=2)
    held_out_people: int = Field(10, ge=1)


class ComparedModels(UnlearnOptions, RunSpec):
    """What all jobs on several models share: the model that must forget, the retain model, how they are measured."""

    title: str = "Unlearning methods compared"
    model: ModelSpec  # the base model; where finetune is null, the model that must forget
    data: DataSpec
    finetune: FinetuneStage | None = None
    retain_model: ModelSpec | None = None  # a ready one, where finetune is null
    optim: OptimSpec = OptimSpec()  # of unlearning
    evaluation: EvaluationSpec = EvaluationSpec()
    train_nli: JudgeStage | None = None  # takes the place of evaluation.nli
    cluster: ClusterSpec = ClusterSpec()
    seed: Seed = 0
    runs: str = "runs"

    @model_validator(mode="after")
    def _one_retain_model(self) -> "ComparedModels":
        if self.finetune is not None and self.retain_model is not None:
            raise ValueError("retain_model: finetune makes one; remove retain_model, or finetune")
        return self

    def finetuning(self, train_on: str, model: ModelSpec) -> FinetuneRun:
        assert self.finetune is not None
        values = {
            "name": "target" if train_on == "all" else "retain",
            "model": model.model_dump(),
            "data": self.data.model_dump(),
            "train_on": train_on,
            "optim": self.finetune.optim.model_dump(),
            "cluster": self.cluster.model_dump(),
            "seed": self.seed,
            "runs": self.runs,
        }
        return build(FinetuneRun, values, where="finetune")


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


def compare(config: CompareRun, console: Console) -> Path:
    """Run what is not done yet; the path of the report."""
    corpus = config.data.load()
    spec = config.evaluation
    if config.train_nli is not None:
        spec = spec.model_copy(update={"nli": train_judge(config.train_nli, config, console)})
    measure = Measure(corpus, spec, config.cluster.address, Path(config.runs), console)
    target, retain = make_models(config, console)
    reference = None if retain is None else measure("retain", retain)
    measured = [*([] if reference is None else [reference]), measure("target", target, reference)]
    for run in (run for method in config.methods for run in config.unlearnings(method, target.source)):
        model = like(config.model, unlearn(run, console))
        name = run.name if len(config.seeds) < 2 else f"{run.name} seed {run.seed}"
        measured.append(measure(name, behind_marks(model, run, corpus), reference))
    folder = Run.open(Path(config.runs), "compare", config.title, config.model_dump(mode="json"), {}).directory
    write(config.title, model_reports(measured), folder / REPORT, console)
    return folder / REPORT


def make_models(config: ComparedModels, console: Console) -> tuple[ModelSpec, ModelSpec | None]:
    """The model that must forget, and the retain model."""
    if config.finetune is None:
        return config.model, config.retain_model
    base = opened_alike(config.model, config.runs)
    target, retain = (
        like(config.model, finetune(config.finetuning(train_on, base), console)) for train_on in ("all", "retain")
    )
    return target, retain


def train_judge(stage: JudgeStage, config: ComparedModels, console: Console) -> str:
    """The folder of the NLI model; prints its accuracy on people that it was not trained on."""
    from obliviate_eval.judges.train_nli import train_nli

    run = Run.open(Path(config.runs), "judge", "nli", stage.model_dump(), {"seed": str(config.seed)})
    folder = run.directory / "model"
    if not run.done:
        console.print("train the NLI judge on generated people ...")
        pairs = nli_pairs(stage.people, config.seed)
        known = set(pairs)  # more people with the same seed: the first are the same, the others are held out
        held_out = [pair for pair in nli_pairs(stage.people + stage.held_out_people, config.seed) if pair not in known]
        with run.locked():
            run.finish(accuracy=train_nli(stage.encoder, pairs, held_out, folder, seed=config.seed))
    accuracy = run.summary["accuracy"]
    console.print(f"NLI judge: accuracy on held-out people {accuracy:.3f}")
    if accuracy < NEEDED_ACCURACY:
        raise UserError(
            f"train_nli: {accuracy:.3f} of the held-out pairs are judged right and {NEEDED_ACCURACY} is needed; raise "
            "train_nli.people, give another train_nli.encoder, or set train_nli: null and give evaluation.nli a model"
        )
    return storage.name(folder)


def behind_marks(model: ModelSpec, run: UnlearnRun, corpus: Corpus) -> ModelSpec:
    """A model that was taught to heed marks is measured behind those of all that it is to forget; others are bare."""
    if not run.method.hides:
        return model
    targets = tuple(dict.fromkeys(row.entity for row in corpus.forget if row.entity is not None))
    return model.model_copy(update={"guardrail": GuardrailSpec(type="in_context", targets=targets)})
