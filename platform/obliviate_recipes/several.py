"""What jobs on several methods or models share: the models themselves, and what each entry of `methods` holds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import Field, model_validator

from obliviate.config import FinetuneRun, Unlearning, UnlearnRun, build, expand_method
from obliviate.config_file import merge
from obliviate.data import DataSpec
from obliviate.data.rows import Corpus
from obliviate.options import AlternativesSpec, UnlearnOptions
from obliviate.schema import ClusterSpec, EngineSpec, GuardrailSpec, ModelSpec, OptimSpec, Seed, Spec
from obliviate.tracking import Tracked
from obliviate_eval.spec import EvaluationSpec
from obliviate_recipes.stage import Stage
from obliviate_recipes.stages.composed import unlearning_stage
from obliviate_recipes.stages.finetuning import Finetune
from obliviate_recipes.stages.judge import Judge, JudgeSpec
from obliviate_recipes.stages.opening import opened


class FinetuneSpec(Spec):
    """Makes the model that must forget, and the retain model, from the base model."""

    optim: OptimSpec = OptimSpec()


class Method(Unlearning):
    """An entry of `methods`: what is its own, over what the job has for all."""

    name: str = ""  # in tables; empty: the method's own name, ME+GD
    optim: dict[str, Any] = Field(default={})  # over the job's `optim`


class MethodsRun(UnlearnOptions, Tracked):
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


class ComparedModels(UnlearnOptions, Tracked):
    """What all jobs on several models share: the model that must forget, the retain model, how they are measured."""

    title: str = "Unlearning methods compared"
    model: ModelSpec  # the base model; where finetune is null, the model that must forget
    data: DataSpec
    finetune: FinetuneSpec | None = None
    retain_model: ModelSpec | None = None  # a ready one, where finetune is null
    optim: OptimSpec = OptimSpec()  # of unlearning
    evaluation: EvaluationSpec = EvaluationSpec()
    train_nli: JudgeSpec | None = None  # takes the place of evaluation.nli
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


class UnlearnedModels(MethodsRun, ComparedModels):
    """What all jobs on models that methods have made share, each method on the same model and forget set."""

    methods: tuple[Method, ...] = ()
    # Each method is trained with each, from the same model, and its figures are means over them; empty: `seed` alone.
    seeds: tuple[Seed, ...] = ()

    @model_validator(mode="after")
    def _check_methods(self) -> "UnlearnedModels":
        check_names([self.unlearning(each, "").name for each in self.methods])
        check_seeds(self.seeds)
        return self

    def called(self, run: UnlearnRun) -> str:
        """What figures call the model of one of `unlearnings`."""
        return run.name if len(self.seeds) < 2 else f"{run.name} seed {run.seed}"

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


@dataclass(frozen=True)
class Models:
    """The model that must forget and the retain model, and what makes them."""

    target: ModelSpec
    retain: ModelSpec | None
    before: tuple[Stage, ...] = ()

    @classmethod
    def of(cls, config: ComparedModels, corpus: Corpus) -> "Models":
        if config.finetune is None:
            return cls(config.model, config.retain_model)
        opening = opened(config.model, config.runs)
        base, needs = (config.model, ()) if opening is None else (opening.model, (opening,))
        made = [Finetune(config.finetuning(train_on, base), corpus, needs) for train_on in ("all", "retain")]
        return cls(made[0].model, made[1].model, tuple(made))


def judge_of(config: ComparedModels) -> Judge | None:
    return None if config.train_nli is None else Judge(config.train_nli, config.seed, config.runs)


class Made(NamedTuple):
    """A model that a method has made."""

    name: str
    model: ModelSpec  # as it is measured
    stage: Stage


def unlearned(config: UnlearnedModels, models: Models, corpus: Corpus) -> Iterator[Made]:
    """Those of all methods, with every seed."""
    for run in (run for method in config.methods for run in config.unlearnings(method, models.target.source)):
        stage = unlearning_stage(run, corpus, models.before)
        name = config.called(run)
        yield Made(name, behind_marks(stage.model, run, corpus), stage)


def behind_marks(model: ModelSpec, run: UnlearnRun, corpus: Corpus) -> ModelSpec:
    """A model that was taught to heed marks is measured behind those of all that it is to forget; others are bare."""
    if not run.method.hides:
        return model
    targets = tuple(dict.fromkeys(row.entity for row in corpus.forget if row.entity is not None))
    return model.model_copy(update={"guardrail": GuardrailSpec(type="in_context", targets=targets)})
