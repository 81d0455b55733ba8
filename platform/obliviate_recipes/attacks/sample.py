"""Asking often: does one of k sampled answers tell the fact, where the greedy one does not?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from obliviate import storage
from obliviate.errors import UserError
from obliviate.runs import Run
from obliviate.schema import ModelSpec, Seed
from obliviate_eval.asked import suite_of
from obliviate_eval.content import content_of_code
from obliviate_eval.metrics import LeakAtK
from obliviate_eval.metrics.leak_at_k import LeaksBy
from obliviate_eval.own_suite import SuiteSpec
from obliviate_eval.records import RECORDS_FILE, Record, read_records, write_records
from obliviate_eval.spec import SamplingSpec
from obliviate_recipes.attacks.base import Attack, Attempt, Measured, OfAttack, Scene, Target, each_once
from obliviate_recipes.attacks.split import FORGET
from obliviate_recipes.events import Events
from obliviate_recipes.stage import Determined, Stage
from obliviate_recipes.stages.measure import Measuring, Records


class Sample(Attack):
    """leak@k, k by k. `by: key`: an answer leaks that says the words that carry the fact; else as `leak_at_k` has it.

    Published: 200 samples at temperature 0.8 and 1.0, k up to 128, by entailment.
    """

    title: ClassVar = "Asked often: does one of k sampled answers leak?"
    source: ClassVar = "arXiv:2511.04934"

    type: Literal["sample"] = "sample"
    samples: int = Field(default=64, ge=1)
    k: Annotated[tuple[int, ...], AfterValidator(each_once)] = Field(default=(1, 4, 16, 64), min_length=1)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    by: LeaksBy = "key"
    threshold: float = Field(default=0.5, gt=0, le=1)  # of ROUGE-L recall, by rouge
    seed: Seed = 0

    @model_validator(mode="after")
    def _enough(self) -> "Sample":
        if wrong := [k for k in self.k if not 1 <= k <= self.samples]:
            raise ValueError(f"k: {wrong[0]}: give 1 to samples ({self.samples}), or raise samples")
        return self

    def check(self, scene: Scene) -> None:
        if self.by == "entailment" and scene.measuring.spec.nli is None:
            raise UserError(
                f"attacks.{self.label}.by: entailment: samples are judged by evaluation.nli, which is null; give an "
                "NLI model, or by: key"
            )

    def metric(self, k: int) -> LeakAtK:
        return LeakAtK(k=k, by=self.by, threshold=self.threshold)

    def attempts(self, target: Target, scene: Scene) -> Sequence[Attempt]:
        after = Measured(Sampled(target, scene, self))
        return [
            Attempt(f"{self.label}, {k} times", scene.plain(target), after, on=(_name(k),), own_scale=True)
            for k in self.k
        ]


def _name(k: int) -> str:
    return f"leak@{k}"


@dataclass(frozen=True)
class Sampled(OfAttack):
    """Samples of V's questions, judged, and what they leak in the records, by k."""

    kind: ClassVar = "sample"
    beside_engines: ClassVar = True

    attack: Sample

    @property
    def needs(self) -> tuple[Stage, ...]:
        return (self.records,)

    @cached_property
    def measuring(self) -> Measuring:
        attack, shared = self.attack, self.scene.measuring
        forget = tuple(each for each in shared.corpus.evaluation if each.name == FORGET)
        generation = shared.spec.generation
        sampling = SamplingSpec(
            max_new_tokens=generation.max_new_tokens, max_length=generation.max_length, temperature=attack.temperature,
            top_p=attack.top_p, samples=attack.samples, seed=attack.seed,
        )  # fmt: skip
        spec = shared.spec.model_copy(
            update={
                "suite": SuiteSpec(metrics=(attack.metric(1),)), "sampling": sampling, "questions": "given",
                "encoder": None, "fluency": None, "judge": None, "harness": None,
            }
        )  # fmt: skip
        return replace(shared, corpus=replace(shared.corpus, evaluation=forget), spec=spec)

    @cached_property
    def records(self) -> Records:
        return Records(self.measuring, f"{self.target.name} {self.attack.label}", self.target.model, self.target.needs)

    def determined(self) -> Determined:
        config = self.attack.model_dump(mode="json", include={"k", "by", "threshold"})
        inputs = {"records": self.records.run.content, "code": content_of_code()}
        nli = self.measuring.spec.nli
        if self.attack.by == "entailment" and nli is not None:
            inputs["nli"] = self.content_of(ModelSpec(source=nli))
        return Determined(config, inputs)

    def check(self) -> None:
        """A judge that is missing is told before an hour of sampling."""
        _ = self.measuring.judges

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        found = read_records(storage.fetch(self.records.run.directory / RECORDS_FILE))
        judged = self.measuring.judges.judge(found, suite_of(self.measuring.spec))
        write_records(run.directory / RECORDS_FILE, [replace(each, logged=self._leaks(each)) for each in judged])
        return {"records": RECORDS_FILE}

    def _leaks(self, record: Record) -> dict[str, float]:
        scores = {k: self.attack.metric(k).score(record) for k in self.attack.k}
        return {_name(k): score for k, score in scores.items() if score is not None}
