"""Every attack in one closed union, and what an attack may cost."""

from pydantic import Field

from obliviate.schema import Spec
from obliviate_recipes.attacks.relearn import Relearn

AttackSpec = Relearn


class BudgetSpec(Spec):
    """What an attack may cost. One that ruins the model proves nothing."""

    # Of the mean probability of what was to be kept: a share of what it was before the attack
    utility_drop: float = Field(default=0.1, ge=0, le=1)
