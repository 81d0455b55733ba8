"""What a run that trains consists of: model, data, optimiser, cluster, and the method."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from obliviate.config_file import RunSpec, build, load
from obliviate.data import DataSpec
from obliviate.errors import UserError
from obliviate.methods import (
    AnyForgetSpec,
    AnyRegularizerSpec,
    Curvature,
    ParameterTerm,
    Redirection,
    Term,
    check_texts,
    compares,
    composed,
    expand,
    label_of,
    needs_reinforced,
    reads,
    samples,
    union_of_needs,
)
from obliviate.options import UnlearnOptions
from obliviate.plugins import by_name
from obliviate.schema import LAYOUT, ClusterSpec, ModelSpec, OptimSpec, PushSpec, Seed, later
from obliviate.tracking import Tracked

__all__ = ["FinetuneRun", "RunSpec", "TrainingRun", "UnlearnRun", "build", "expand_method", "load"]


class TrainingRun(Tracked):
    """What fine-tuning and unlearning share."""

    name: str = ""  # part of the run's folder name; empty: made from method and data
    model: ModelSpec
    data: DataSpec
    optim: OptimSpec = OptimSpec()
    cluster: ClusterSpec = ClusterSpec()
    seed: Seed = 0
    runs: str = "runs"  # folder of all runs; on several nodes one that they share, or a URL (s3://bucket/runs)
    push_to_hub: PushSpec | None = later()  # once it is made

    @model_validator(mode="after")
    def _nothing_guarded_is_trained(self) -> "TrainingRun":
        if self.model.guardrail is not None:
            raise ValueError(
                "model.guardrail: is for inference, and training would teach the model its prompt; remove it here, and "
                "give it where the model is evaluated or served"
            )
        return self

    @model_validator(mode="after")
    def _an_item_for_every_worker(self) -> "TrainingRun":
        if self.optim.batch_size < self.cluster.workers:
            raise ValueError(
                f"optim.batch_size: {self.optim.batch_size} is less than cluster.workers: {self.cluster.workers}; "
                "every worker needs an item of each batch"
            )
        return self


class FinetuneRun(TrainingRun):
    """Teaches a model the data: all of it (what must forget), all but the forget set (the retain model), or that alone
    (the reinforced model of the method whp)."""

    train_on: Literal["all", "retain", "forget"] = "all"


# Keys that change how the forget objective's gradient becomes an update.
OF_FORGET = (
    "updates", "forget_learning_rate", "sharpness", "projection", "rectification", "stability", "quantisation",
    "tampering",
)  # fmt: skip


class Unlearning(UnlearnOptions):
    """One forget objective with any number of weighted regularizers, and how they are trained."""

    method: AnyForgetSpec
    regularizers: tuple[AnyRegularizerSpec, ...] = ()

    @property
    def unlearning_keys(self) -> dict[str, Any]:
        """Those of this spec alone, of whatever has more."""
        return self.model_dump(include=set(Unlearning.model_fields))

    @property
    def terms(self) -> tuple[Term, ...]:
        return composed((self.method, *self.regularizers))

    @property
    def label(self) -> str:
        return label_of((self.method, *self.regularizers))

    def check_measured_bare(self) -> None:
        """Raises ValueError for a method whose models heed marks, where nothing sets any."""
        if self.method.hides:
            raise ValueError(
                f"method: {self.method.type}: its models refuse only what a mark in the prompt names, and here they "
                "are measured without marks; take it in `obliviate compare`, or unlearn and then evaluate it behind a "
                "guardrail"
            )

    @property
    def needs_alternatives(self) -> bool:
        return samples(self.terms)

    @property
    def needs_retain(self) -> bool:
        held = isinstance(self.method.ascent, (Curvature, Redirection))
        held = held or self.projection is not None or self.sanitisation is not None
        return held or (self.undo is not None and self.undo.texts == "retain") or reads(self.terms, "retain")


class UnlearnRun(Unlearning, TrainingRun):
    """What `obliviate unlearn` takes."""

    @classmethod
    def long_form(cls, values: Any) -> Any:
        return expand_method(values)

    @model_validator(mode="after")
    def _terms_fit(self) -> "UnlearnRun":
        reads_world = reads(self.terms, "world")
        if reads_world and self.world is None:
            raise ValueError("world: the term world trains on general instructions; give a file of them")
        if not reads_world and self.world is not None:
            raise ValueError(f"world: {self.world}: no term trains on it; add the regularizer world, or remove the key")
        if self.updates != "joint" and not self.regularizers:
            raise ValueError(f"updates: {self.updates}: {self.label} has no regularizer to alternate with; add one")
        if self.neighbours > 1 and self.pairing != "nearest":
            raise ValueError(f"neighbours: {self.neighbours}: only pairing: nearest chooses among them; set it")
        of_weights = [term.type for term in self.terms if isinstance(term, ParameterTerm)]
        if of_weights and self.model.lora is not None:
            raise ValueError(
                f"model.lora: {of_weights[0]} compares weights with the initial ones, and adapters leave those alone; "
                f"remove model.lora, or {of_weights[0]}"
            )
        return self

    @model_validator(mode="after")
    def _something_is_read(self) -> "UnlearnRun":
        name = self.method.type
        if not union_of_needs(self.terms):
            raise ValueError(f"regularizers: {self.label} reads no text, and would train on none; add gd")
        if self.method.needs:
            return self
        if self.early_drop is not None:
            raise ValueError(f"early_drop: {name} reads no forget text that it could leave out; remove it")
        if self.method.initial_noise and self.model.lora is not None:
            raise ValueError(f"model.lora: {name} adds noise to the weights, which no adapter holds; remove it")
        if self.method.initial_noise and (beside := next((key for key in OF_FORGET if self._given(key)), None)):
            raise ValueError(f"{beside}: {name} has no forget gradient, which it would change; remove it")
        return self

    def _given(self, key: str) -> bool:
        return bool(getattr(self, key) != type(self).model_fields[key].default)

    @model_validator(mode="after")
    def _forget_updates_fit(self) -> "UnlearnRun":
        if self.rectification is not None:
            self._check_rectification()
        if self.stability is not None:
            self._check_stability()
        together = self.updates == "joint" and self.regularizers
        if together and self.forget_learning_rate is not None:
            raise ValueError(
                "forget_learning_rate: with updates: joint all terms have one learning rate; set updates: dual"
            )
        if together and self.projection is not None:
            raise ValueError(
                f"projection: {self.label} makes one update of all its terms, and a projected one could train none of "
                "the regularizers; set updates: dual or alternating"
            )
        return self

    def _check_stability(self) -> None:
        if not self.regularizers:
            raise ValueError(f"stability: {self.label} has no regularizer that forgetting could give way to; add gd")
        if self.updates != "joint":
            raise ValueError(
                f"stability: joins both gradients in one update, where updates: {self.updates} makes two; set updates: "
                "joint"
            )
        if other := next((key for key in ("sharpness", "rectification") if getattr(self, key) is not None), None):
            raise ValueError(f"stability: has a perturbation and a projection of its own; remove {other}")

    def _check_rectification(self) -> None:
        if not self.regularizers:
            raise ValueError(
                f"rectification: {self.label} has no regularizer whose gradient says what is to be kept; add one, such "
                "as gd"
            )
        if self.updates != "joint":
            raise ValueError(
                f"rectification: makes one update, along the forget gradient, and none on the regularizers, which "
                f"updates: {self.updates} asks for; set updates: joint"
            )
        if self.projection is not None:
            raise ValueError("rectification: and projection both say what forgetting may not touch; remove one of them")

    @model_validator(mode="after")
    def _positions_fit(self) -> "UnlearnRun":
        check_texts(self.terms)
        return self

    @model_validator(mode="after")
    def _reference_fits(self) -> "UnlearnRun":
        if self.reference is not None and not compares(union_of_needs(self.terms)):
            raise ValueError(
                f"reference: {self.reference.source}: no term of {self.label} compares with another model; remove it"
            )
        if self.reference is not None:
            self._reads_alike("reference", self.reference)
        if self.forget_filter is not None:
            self._reads_alike("forget_filter.reference", self.forget_filter.reference)
        return self

    def _reads_alike(self, where: str, reference: ModelSpec) -> None:
        """Raises ValueError for a reference with keys of its own for what it takes from `model`."""
        for key in (*sorted(LAYOUT), "max_length", "guardrail", "lora", "dropout"):
            if getattr(reference, key) not in (getattr(self.model, key), ModelSpec.model_fields[key].default):
                raise ValueError(
                    f"{where}.{key}: has no effect: the reference reads what `model` lays out, with nothing added to "
                    "its weights; remove it"
                )

    @model_validator(mode="after")
    def _negation_fits(self) -> "UnlearnRun":
        if self.method.negation is not None and self.model.lora is not None and not self.model.lora.merge:
            raise ValueError(
                "model.lora.merge: false keeps an adapter, and negation subtracts whole weights; set merge: true"
            )
        return self

    @model_validator(mode="after")
    def _early_drop_fits(self) -> "UnlearnRun":
        """It asks the model that is trained, as it stands, what it has forgotten."""
        if self.early_drop is not None and (self.method.negation is not None or self.method.hides):
            raise ValueError(
                f"early_drop: while {self.method.type} trains, its model answers the forget questions still: what it "
                "does not answer, it has not learned yet; remove early_drop"
            )
        return self

    @model_validator(mode="after")
    def _selection_fits(self) -> "UnlearnRun":
        """They look at the model that is trained, asked as it stands."""
        if self.kl_budget is not None and self.method.negation is not None:
            raise ValueError(
                f"kl_budget: {self.method.type} trains a model whose change is subtracted afterwards, and measures how "
                "far that one comes; remove kl_budget, and choose method.scale by a sweep"
            )
        if self.validation is not None and (self.method.negation is not None or self.method.hides):
            raise ValueError(
                f"validation: while {self.method.type} trains, its model answers the forget questions still; remove "
                "validation"
            )
        return self

    @model_validator(mode="after")
    def _ascent_fits(self) -> "UnlearnRun":
        """Whatever says how an optimiser updates the weights, or on what else, would be without effect."""
        if self.method.ascent is None:
            return self
        name = self.method.type
        if self.regularizers:
            raise ValueError(
                f"regularizers: {name} takes steps along a direction of the forget set, and trains on nothing else; "
                "remove them"
            )
        if beside := next((key for key in (*OF_FORGET, "early_drop") if self._given(key)), None):
            raise ValueError(f"{beside}: {name} has no optimiser's updates, which it would change; remove it")
        if self.model.lora is not None:
            raise ValueError(f"model.lora: {name} moves the weights, and adapters leave those alone; remove it")
        return self

    @model_validator(mode="after")
    def _what_is_done_to_the_model_fits(self) -> "UnlearnRun":
        """What training imagines is done to the model that has forgotten: rounding, and attacks."""
        for key in ("quantisation", "tampering"):
            if getattr(self, key) is not None and self.method.negation is not None:
                raise ValueError(
                    f"{key}: {self.method.type} forgets by a subtraction after training, which {key} while it trains "
                    "would not see; remove it"
                )
        if self.tampering is not None and self.tampering.batch_size < self.cluster.workers:
            raise ValueError(
                f"tampering.batch_size: {self.tampering.batch_size} is less than cluster.workers: "
                f"{self.cluster.workers}; every worker needs a row of each batch"
            )
        return self

    @model_validator(mode="after")
    def _sanitisation_fits(self) -> "UnlearnRun":
        kept = self.model.lora is not None and not self.model.lora.merge
        if self.sanitisation is not None and kept:
            raise ValueError(
                "model.lora.merge: false keeps an adapter, and sanitisation changes whole weights; set merge: true"
            )
        if self.undo is not None and kept:
            raise ValueError("model.lora.merge: false keeps an adapter, and undo distils whole models; set merge: true")
        if self.layers is not None and kept:
            raise ValueError(
                "model.lora.merge: false keeps an adapter, and the next of layers starts from a whole model; set true"
            )
        return self

    @model_validator(mode="after")
    def _stop_fits(self) -> "UnlearnRun":
        """It asks what the model that is trained has forgotten, as it stands."""
        if self.stop is not None and (self.method.negation is not None or self.method.hides):
            raise ValueError(
                f"stop: while {self.method.type} trains, its model knows the true answers still: their margins do not "
                "say when to end; remove stop"
            )
        return self

    @property
    def learnings(self) -> "list[UnlearnRun]":
        """The trainings that make the model: one, but for a task vector that is learned at several rates."""
        negation = self.method.negation
        rates = (self.optim.learning_rate, *(() if negation is None else negation.learning_rates))
        optims = [self.optim.model_copy(update={"learning_rate": rate}) for rate in rates]
        return [self.model_copy(update={"optim": optim}) for optim in optims]

    @property
    def reinforcing(self) -> FinetuneRun | None:
        """The training of the reinforced model, where the method rests on one."""
        if not needs_reinforced(self.terms):
            return None
        shared = self.model_dump(include={"data", "cluster", "seed", "runs"})
        lora = None if self.model.lora is None else self.model.lora.model_copy(update={"merge": True})
        # Of use for what it differs in from the model: no bit of that is rounded away.
        whole = self.model.model_copy(update={"lora": lora, "export_dtype": "float32"})
        values = {**shared, "name": "reinforced", "model": whole.model_dump(), "optim": self.reinforcement.model_dump()}
        return build(FinetuneRun, {**values, "train_on": "forget"}, where="reinforcement")


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
        long["regularizers"] = [by_name(r) if isinstance(r, str) else r for r in long["regularizers"]]
    return long
