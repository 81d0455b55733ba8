"""What a run that trains consists of: model, data, optimiser, cluster, and the method."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from obliviate.config_file import RunSpec, build, load
from obliviate.data import DataSpec
from obliviate.errors import UserError
from obliviate.methods import AnyForgetSpec, AnyRegularizerSpec, Pass, Term, expand, union_of_needs
from obliviate.schema import ClusterSpec, EngineSpec, ModelSpec, OptimSpec, Spec

__all__ = ["FinetuneRun", "RunSpec", "TrainingRun", "UnlearnRun", "build", "expand_method", "load"]


class TrainingRun(RunSpec):
    """What fine-tuning and unlearning share."""

    name: str = ""  # part of the run's folder name; empty: made from method and data
    model: ModelSpec
    data: DataSpec
    optim: OptimSpec = OptimSpec()
    cluster: ClusterSpec = ClusterSpec()
    seed: int = Field(0, ge=0)
    runs: str = "runs"  # folder of all runs; on several nodes one that they share, or a URL (s3://bucket/runs)

    @model_validator(mode="after")
    def _an_item_for_every_worker(self) -> "TrainingRun":
        if self.optim.batch_size < self.cluster.workers:
            raise ValueError(
                f"optim.batch_size: {self.optim.batch_size} is less than cluster.workers: {self.cluster.workers}; "
                "every worker needs an item of each batch"
            )
        return self


class FinetuneRun(TrainingRun):
    """Teaches a model the data: all of it (what must forget), or all but the forget set (the retain model)."""

    train_on: Literal["all", "retain"] = "all"


class AlternativesSpec(Spec):
    """How other answers to the forget questions are sampled from the model that must forget, where a method prefers
    such answers and the rows bring none. Defaults: AltPO (arXiv:2409.13474)."""

    samples: int = Field(5, ge=1)  # of each question
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(128, ge=1)
    engine: EngineSpec | None = None  # None: that of the evaluation where there is one, else the defaults


class UnlearnRun(TrainingRun):
    """One forget objective with any number of weighted regularizers."""

    method: AnyForgetSpec
    regularizers: tuple[AnyRegularizerSpec, ...] = ()
    pairing: Literal["fresh", "fixed"] = (
        "fresh"  # retain item and refusal of a forget item: new each epoch, or the same
    )
    refusals: str | None = None  # text file, one refusal a line; None: the project's own hundred
    reference: ModelSpec | None = (
        None  # what NPO, DPO and KL compare with; None: `model`, as it is before the first step
    )
    alternatives: AlternativesSpec = AlternativesSpec()

    @classmethod
    def long_form(cls, values: Any) -> Any:
        return expand_method(values)

    @property
    def terms(self) -> tuple[Term, ...]:
        return (self.method, *(each.beside(self.method) for each in self.regularizers))

    @model_validator(mode="after")
    def _terms_fit(self) -> "UnlearnRun":
        union_of_needs(self.terms)
        return self

    @property
    def label(self) -> str:
        return "+".join(term.type for term in (self.method, *self.regularizers)).upper()

    @property
    def needs_alternatives(self) -> bool:
        return Pass.FORGET_ALTERNATIVE in union_of_needs(self.terms)

    @property
    def needs_retain(self) -> bool:
        of_retain = (Pass.RETAIN, Pass.RETAIN_IDK, Pass.FORGET_MISMATCH)
        return any(each in of_retain for each in union_of_needs(self.terms))


def expand_method(values: Any) -> Any:
    """`method: npo+gd`, `method: npo` and `regularizers: [gd]` to their long form; anything else as it is."""
    if not isinstance(values, Mapping):
        return values
    long = dict(values)
    if isinstance(values.get("method"), str):
        long |= expand(values["method"])
        if values.get("regularizers"):
            if long["regularizers"]:
                raise UserError(
                    f"regularizers: given twice, as {values['method']!r} in method and as a list; keep one of them"
                )
            long["regularizers"] = values["regularizers"]
    if isinstance(long.get("regularizers"), list | tuple):
        long["regularizers"] = [{"type": r} if isinstance(r, str) else r for r in long["regularizers"]]
    return long
