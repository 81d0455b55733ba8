"""The config of `obliviate request`: one served model, what it knows, how requests are unlearned, and the policy."""

from pydantic import Field, model_validator

from obliviate.config import UnlearnRun
from obliviate.guardrail import NOT_REMOVED
from obliviate.schema import FilePath, ModelSpec, Spec
from obliviate_eval.spec import EvaluationSpec
from obliviate_recipes.attacks.spec import AttackSpec, BudgetSpec, check_labels
from obliviate_recipes.attacks.split import SplitSpec
from obliviate_recipes.requests.ledger_spec import LedgerSpec
from obliviate_recipes.requests.policy import Policy


class RetentionSpec(Spec):
    """What `obliviate request purge` removes of fulfilled requests, and when."""

    days: float = Field(default=30.0, ge=0)  # after a request was fulfilled: so long `recheck` has its texts
    old_models: bool = False  # whether models and checkpoints that still know the texts go too


class RequestsRun(LedgerSpec, UnlearnRun):
    """What `unlearn` takes is how each batch is unlearned; `data` is all that the model was taught.

    `model` is the served model before the first request; after that the ledger knows it.
    """

    policy: Policy
    key: FilePath  # private key that signs the certificates
    retention: RetentionSpec = RetentionSpec()
    batch_requests: int = Field(default=20, ge=1)  # unlearned together at most
    due_after_hours: float = Field(default=0.0, ge=0)  # how long the oldest request waits for others to come
    lease_s: float = Field(default=300.0, ge=1)  # a runner that was not heard of for so long has died
    evaluation: EvaluationSpec = EvaluationSpec()
    attacks: tuple[AttackSpec, ...] = ()  # on each new model, measured on the batch's own texts
    retain_model: ModelSpec | None = None  # never saw them: tells what an attack teaches by itself
    split: SplitSpec = SplitSpec()
    budget: BudgetSpec = BudgetSpec()

    @model_validator(mode="after")
    def _the_method_removes(self) -> "RequestsRun":
        if self.method.hides:
            raise ValueError(
                f"method: {self.method.type}: what it was asked to forget is {NOT_REMOVED}, so that no certificate "
                "could say it is gone; take another method"
            )
        return self

    @model_validator(mode="after")
    def _nothing_is_pushed(self) -> "RequestsRun":
        if self.push_to_hub is not None:
            raise ValueError("push_to_hub: is for single models; send one of a batch by `obliviate push`")
        return self

    @model_validator(mode="after")
    def _attacks_fit(self) -> "RequestsRun":
        check_labels(self.attacks)
        if not self.attacks and self.retain_model is not None:
            raise ValueError("retain_model: only attacks are compared with it; give attacks, or remove it")
        return self

    @model_validator(mode="after")
    def _whole_models(self) -> "RequestsRun":
        if self.model.lora is not None and not self.model.lora.merge:
            raise ValueError(
                "model.lora.merge: false keeps an adapter; the next batch starts from a whole model: set true"
            )
        if self.forget_filter is not None:
            raise ValueError("forget_filter: a request is about all of its rows, and filtered ones stay; remove it")
        return self
