"""How a model is measured. Imports no torch, ray or vllm."""

from typing import Literal

from pydantic import Field, model_validator

from obliviate.schema import EngineSpec, GenerationSpec, Spec


class EvaluationSpec(Spec):
    """The part `evaluation` of a config. A judge is a hub id, a folder, or package:NAME; null leaves it out."""

    suite: Literal[
        "closer_look",
        "closer_look_real_world",
        "real_world",
        "tofu",
        "openunlearning",
        "muse",
        "wmdp",
        "leakage",
        "custom",
    ] = "closer_look"
    engine: EngineSpec = EngineSpec()
    generation: GenerationSpec = GenerationSpec()
    encoder: str | None = "sentence-transformers/paraphrase-MiniLM-L6-v2"  # for cosine similarity
    nli: str | None = "sileod/deberta-v3-base-tasksource-nli"  # for entailment
    resamples: int = Field(1000, ge=100)  # of the bootstrap
    seed: int = Field(0, ge=0)  # of the bootstrap

    @model_validator(mode="after")
    def _one_generation(self) -> "EvaluationSpec":
        if self.generation.samples != 1:
            raise ValueError(f"generation.samples is {self.generation.samples}; a suite measures 1 for each question")
        return self
