"""Every attack in one closed union, and what an attack may cost."""

from collections.abc import Sequence
from typing import Annotated, get_args

from pydantic import Field

from obliviate.plugins import Door
from obliviate.schema import Spec
from obliviate_recipes.attacks.ask import Ask
from obliviate_recipes.attacks.base import Attack
from obliviate_recipes.attacks.depth import Lens, Patch
from obliviate_recipes.attacks.embedding import Embedding
from obliviate_recipes.attacks.gcg import GCG
from obliviate_recipes.attacks.merge_back import MergeBack
from obliviate_recipes.attacks.orthogonalise import Orthogonalise
from obliviate_recipes.attacks.probe import Probe
from obliviate_recipes.attacks.prune import Prune
from obliviate_recipes.attacks.quantise import Quantise
from obliviate_recipes.attacks.relearn import Relearn
from obliviate_recipes.attacks.sample import Sample

AnyAttack = (
    Relearn | Quantise | Prune | MergeBack | Ask | Sample | Patch | Lens | Probe | Orthogonalise | Embedding | GCG
)
ATTACK_TYPES: dict[str, type[Attack]] = {cls.model_fields["type"].default: cls for cls in get_args(AnyAttack)}
ATTACK_DOOR = Door("obliviate.attacks", (Attack,), ATTACK_TYPES, set(ATTACK_TYPES))
AttackSpec = Annotated[AnyAttack, Field(discriminator="type"), ATTACK_DOOR]


class BudgetSpec(Spec):
    """What an attack may cost. One that ruins the model proves nothing."""

    # Of the mean probability of what was to be kept: a share of what it was before the attack
    utility_drop: float = Field(default=0.1, ge=0, le=1)


def check_labels(attacks: Sequence[Attack]) -> None:
    """Raises ValueError where two attacks would be told apart by nothing."""
    labels = [attack.label for attack in attacks]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise ValueError(f"attacks: two are called {twice}; give each a `name` of its own")
