"""What `obliviate attack` takes."""

from typing import Literal

from pydantic import Field, model_validator

from obliviate.schema import ModelSpec, Spec
from obliviate_eval.spec import EvaluationSpec
from obliviate_recipes.attacks.relearn import Relearn
from obliviate_recipes.attacks.split import SplitSpec
from obliviate_recipes.several import UnlearnedModels, check_names

AttackSpec = Relearn


class BudgetSpec(Spec):
    """What an attack may cost. One that ruins the model proves nothing."""

    # Of the mean probability of what was to be kept: a share of what it was before the attack
    utility_drop: float = Field(default=0.1, ge=0, le=1)


class AttackRun(UnlearnedModels):
    """`obliviate attack`: is it really gone? Attacks on unlearned models, on the original, and on the retain model.

    The unlearned models are those of `methods`, as `compare` makes them, and those of `models`.
    """

    models: dict[str, ModelSpec] = Field(default={})  # name -> a model that has forgotten
    attacks: tuple[AttackSpec, ...] = Field(min_length=1)
    control: Literal["retain", "none"] = "retain"  # none: nothing tells what an attack teaches by itself
    split: SplitSpec = SplitSpec()
    budget: BudgetSpec = BudgetSpec()
    evaluation: EvaluationSpec = EvaluationSpec(suite="robustness")

    @model_validator(mode="after")
    def _something_to_attack(self) -> "AttackRun":
        if not self.methods and not self.models:
            raise ValueError("models: nothing to attack; give models that have forgotten, or methods that make them")
        check_names([*self.models, *(self.unlearning(each, "").name for each in self.methods)])
        labels = [attack.label for attack in self.attacks]
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            raise ValueError(f"attacks: two are called {twice}; give each a `name` of its own")
        return self

    @model_validator(mode="after")
    def _controlled(self) -> "AttackRun":
        if self.control == "retain" and self.retain_model is None and self.finetune is None:
            raise ValueError(
                "retain_model: attacks are compared with a model that never saw the forget set; give one, train it "
                "(obliviate finetune with train_on: retain, or finetune here), or set control: none"
            )
        return self
