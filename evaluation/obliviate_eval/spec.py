"""How a model is measured. Imports no torch, ray or vllm."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from obliviate.schema import EndpointSpec, EngineSpec, GenerationSpec, Seed, Spec
from obliviate_eval.own_suite import SuiteSpec, read_suite
from obliviate_eval.suites import SUITES


class HarnessSpec(Spec):
    """Tasks of the lm-evaluation-harness, run on the same engine; `engine` says how texts are batched.

    A task is a name that the harness knows, or the path of a YAML file that describes one.
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    limit: int | None = Field(default=None, ge=1)  # items of each task, from its beginning; None: all
    num_fewshot: int | None = Field(default=None, ge=0)  # None: what each task is usually run with
    chat_template: bool = False  # published results of general ability are without


class SamplingSpec(GenerationSpec):
    """How questions are continued several times, for suites that measure what a model says now and then."""

    temperature: float = Field(default=1.0, ge=0)
    samples: int = Field(default=8, ge=1)


class JudgeSpec(EndpointSpec):
    """A language model behind an endpoint, which says yes or no of each generation."""

    type: Literal["endpoint"] = "endpoint"
    prompt: str = "reveals"  # "reveals", "agrees", or the path of a text with {question}, {reference} and {answer}
    temperature: float | None = Field(default=0.0, ge=0)  # None: not sent, for models that refuse it; so of max_tokens
    max_tokens: int | None = Field(default=512, ge=1)  # of a reply; one that is cut is no verdict


class EvaluationSpec(Spec):
    """The part `evaluation` of a config. A judge is a hub id, a folder, or package:NAME; null leaves it out."""

    suite: Annotated[str | SuiteSpec, BeforeValidator(read_suite)] = "closer_look"
    engine: EngineSpec = EngineSpec()
    generation: GenerationSpec = GenerationSpec()
    sampling: SamplingSpec = SamplingSpec()  # for suites that measure samples
    # As they are given, by their `paraphrased_question`, or both: then each forget set is there twice, NAME and
    # NAME_paraphrased, and `worst_question` tells what either wording brings out. formats: each forget set is there
    # again in every form of asking, as NAME as FORM, and `known_by_any` tells what any of them brings out.
    questions: Literal["given", "paraphrased", "both", "formats"] = "given"
    encoder: str | None = "sentence-transformers/paraphrase-MiniLM-L6-v2"  # for cosine similarity
    nli: str | None = "sileod/deberta-v3-base-tasksource-nli"  # for entailment
    fluency: str | None = "madhurjindal/autonlp-Gibberish-Detector-492513457"  # for fluency
    judge: JudgeSpec | None = None  # a language model behind an endpoint
    harness: HarnessSpec | None = None  # general ability
    resamples: int = Field(default=1000, ge=100)  # of the bootstrap
    seed: Seed = 0  # of the bootstrap

    @model_validator(mode="after")
    def _one_generation(self) -> "EvaluationSpec":
        if self.generation.samples != 1:
            raise ValueError(
                f"generation.samples is {self.generation.samples}; a suite measures 1 for each question: "
                "give sampling.samples"
            )
        return self

    @model_validator(mode="after")
    def _says_whether_it_is_known(self) -> "EvaluationSpec":
        suite = SUITES[self.suite] if isinstance(self.suite, str) else self.suite
        if self.questions == "formats" and not any(metric.type == "key_said" for metric in suite.metrics):
            raise ValueError(
                "questions: formats needs the metric key_said, which the suite does not have: take robustness"
            )
        return self

    @model_validator(mode="after")
    def _samples_differ(self) -> "EvaluationSpec":
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature is 0; samples would all be the same: raise it")
        return self
