"""How a model is measured. Imports no torch, ray or vllm."""

from typing import Literal

from pydantic import Field, model_validator

from obliviate.schema import EngineSpec, GenerationSpec, Spec


class HarnessSpec(Spec):
    """Tasks of the lm-evaluation-harness, run on the same engine; `engine` says how texts are batched.

    A task is a name that the harness knows, or the path of a YAML file that describes one.
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    limit: int | None = Field(None, ge=1)  # items of each task, from its beginning; None: all
    num_fewshot: int | None = Field(None, ge=0)  # None: what each task is usually run with
    chat_template: bool = False  # published results of general ability are without


class SamplingSpec(GenerationSpec):
    """How questions are continued several times, for suites that measure what a model says now and then."""

    temperature: float = Field(1.0, ge=0)
    samples: int = Field(8, ge=1)


class EvaluationSpec(Spec):
    """The part `evaluation` of a config. A judge is a hub id, a folder, or package:NAME; null leaves it out."""

    suite: Literal[
        "closer_look",
        "closer_look_real_world",
        "real_world",
        "opt_out",
        "tofu",
        "openunlearning",
        "muse",
        "wmdp",
        "wmdp_robust",
        "wmdp_cloze",
        "rwku",
        "knowundo",
        "leakage",
        "custom",
    ] = "closer_look"
    engine: EngineSpec = EngineSpec()
    generation: GenerationSpec = GenerationSpec()
    sampling: SamplingSpec = SamplingSpec()  # for suites that measure samples
    encoder: str | None = "sentence-transformers/paraphrase-MiniLM-L6-v2"  # for cosine similarity
    nli: str | None = "sileod/deberta-v3-base-tasksource-nli"  # for entailment
    fluency: str | None = "madhurjindal/autonlp-Gibberish-Detector-492513457"  # for fluency
    harness: HarnessSpec | None = None  # general ability
    resamples: int = Field(1000, ge=100)  # of the bootstrap
    seed: int = Field(0, ge=0)  # of the bootstrap

    @model_validator(mode="after")
    def _one_generation(self) -> "EvaluationSpec":
        if self.generation.samples != 1:
            raise ValueError(
                f"generation.samples is {self.generation.samples}; a suite measures 1 for each question: "
                "give sampling.samples"
            )
        return self

    @model_validator(mode="after")
    def _samples_differ(self) -> "EvaluationSpec":
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature is 0; samples would all be the same: raise it")
        return self
