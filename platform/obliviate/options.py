"""How a model is made to forget, whatever the method: one set of keys for whoever unlearns."""

from typing import Literal

from pydantic import Field

from obliviate.schema import (
    EngineSpec,
    LatentSpec,
    LayersSpec,
    ModelSpec,
    OptimSpec,
    ProjectionSpec,
    QuantisationSpec,
    RectificationSpec,
    SanitisationSpec,
    SharpnessSpec,
    Spec,
    StabilitySpec,
    StopSpec,
    TamperingSpec,
    UndoSpec,
    later,
)

REINFORCEMENT = OptimSpec(epochs=3)  # passes as published (arXiv:2310.02238)


class AlternativesSpec(Spec):
    """How other answers to the forget questions are sampled from the model that must forget, where a method prefers
    such answers and the rows bring none. Defaults: AltPO (arXiv:2409.13474)."""

    samples: int = Field(default=5, ge=1)  # of each question
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: int = Field(default=128, ge=1)
    engine: EngineSpec | None = None  # None: that of the evaluation where there is one, else the defaults


class EarlyDropSpec(Spec):
    """When a forget row is trained on no longer: after an epoch at whose end the model's greedy answer is far from the
    true one. Defaults: iterative contrastive unlearning (arXiv:2407.20271), whose BERTScore a sentence encoder's cosine
    stands in for."""

    cosine: float = Field(default=0.3, ge=-1, le=1)  # dropped below it, or
    bleu: float = Field(default=0.01, ge=0, le=1)  # below this
    max_new_tokens: int = Field(default=50, ge=1)


class ForgetFilterSpec(Spec):
    """Which forget rows need no unlearning, after FUNU (arXiv:2501.16614): near to what is kept, and hardly better
    known than by a model that never saw them. What is left out still holds the subject's data."""

    reference: ModelSpec  # a model that never saw the forget set: a retain model, or the base model
    similarity: float = Field(default=0.8, ge=-1, le=1)  # cosine to the nearest retain row, at least
    gap: float = Field(default=0.1, ge=0)  # nats per token by which the model knows the answer better, at most
    engine: EngineSpec | None = None  # None: the defaults


class KLBudgetSpec(Spec):
    """How far unlearning may move the model from its start: it ends with the last measured step within the budget.

    After the harness of arXiv:2606.17168 (KL to the start on wikitext, 0.01).
    """

    nats: float = Field(gt=0)  # KL(start || model), the mean per token
    texts: str = Field(default="retain", min_length=1)  # a data file, or "retain": rows held out of the retain set
    rows: int = Field(default=32, ge=1)  # of them
    every_steps: int = Field(default=1, ge=1)  # how often it is measured

    @property
    def of_retain(self) -> bool:
        return self.texts == "retain"


class RefusalsSpec(Spec):
    """How many of the rows to keep may be refused, counted on greedy answers; with it the facts to forget are counted
    on answers too."""

    at_most: float = Field(default=0.05, ge=0, le=1)  # a share of those that the starting model does not refuse
    max_new_tokens: int = Field(default=32, ge=1)  # of an answer that is looked at


class ValidationSpec(Spec):
    """Which step's model unlearning ends with: that with the highest (1 - probability of the facts to forget) x
    probability of the answers of rows that are not trained on."""

    every_steps: int = Field(default=5, ge=1)  # how often it is measured; also after the last step
    rows: int = Field(default=32, ge=1)  # of the forget set
    # What is to be kept: a data file, or "retain": rows held out of the retain set
    texts: str = Field(default="retain", min_length=1, exclude_if=lambda texts: texts == "retain")
    retain_rows: int = Field(default=32, ge=1)  # of them
    refusals: RefusalsSpec | None = later()
    # Measurements without a better one after which training stops; None: it goes on to its end
    patience: int | None = Field(default=None, ge=1)

    @property
    def of_retain(self) -> bool:
        return self.texts == "retain"


class UnlearnOptions(Spec):
    """How a model is made to forget, whatever the method."""

    # Retain item and refusal of a forget item: new each epoch; the same; or new each epoch, but of the nearest items.
    pairing: Literal["fresh", "fixed", "nearest"] = "fresh"
    neighbours: int = Field(default=1, ge=1)  # with `nearest`: retain items that a forget item may meet
    early_drop: EarlyDropSpec | None = None
    stop: StopSpec | None = None
    forget_filter: ForgetFilterSpec | None = None
    # Tells what is near, for `nearest`, `early_drop` and `forget_filter`.
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    world: str | None = None  # file of general instructions with answers, for the term `world`
    # One update on all terms; or, as Opt-Out's code does, one on the forget objective and then one on the regularizers,
    # which share AdamW's state, or have one each (DualOptim), or a shared one with what they differ by (DualOptim+).
    updates: Literal["joint", "alternating", "dual", "dual_plus"] = "joint"
    forget_learning_rate: float | None = Field(default=None, gt=0)  # of updates of their own; None: optim.learning_rate
    sharpness: SharpnessSpec | None = None
    latent: LatentSpec | None = None
    projection: ProjectionSpec | None = None
    rectification: RectificationSpec | None = None
    stability: StabilitySpec | None = later()
    quantisation: QuantisationSpec | None = later()
    tampering: TamperingSpec | None = later()
    layers: LayersSpec | None = later()  # of trainings, one after another
    sanitisation: SanitisationSpec | None = later()  # after training
    undo: UndoSpec | None = later()  # after that
    refusals: str | None = None  # text file, one refusal a line; None: the project's own hundred
    reference: ModelSpec | None = (
        None  # what NPO, DPO and KL compare with; None: `model`, as it is before the first step
    )
    alternatives: AlternativesSpec = AlternativesSpec()
    # Absent from hashes where there is none.
    kl_budget: KLBudgetSpec | None = Field(default=None, exclude_if=lambda budget: budget is None)
    validation: ValidationSpec | None = Field(default=None, exclude_if=lambda validation: validation is None)
    reinforcement: OptimSpec = REINFORCEMENT  # how the forget set is learned once more before whp
