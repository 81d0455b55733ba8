"""Weight distance (arXiv:2505.22310): as far from the starting weights as what is kept allows."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import ForgetObjective, ParameterTerm

if TYPE_CHECKING:
    from torch import Tensor


class Distance(ParameterTerm, ForgetObjective):
    """Forgets by distance alone, and reads no forget text: beside `gd`, the loss is the retain loss less
    weight |W - W_0|^2. Weights that lie far off are what resisted tampering best in the paper's study.

    After the paper. At the start the distance has no gradient, and without bound it grows: the retain loss has to move
    the weights first, and to hold them afterwards.
    """

    title: ClassVar = "Weight distance: as far from the starting weights as the retain loss allows"
    when: ClassVar = "Where forgetting must survive relearning; beside gd, whose rows must cover all that is kept"
    source: ClassVar = "arXiv:2505.22310"
    of_parts: ClassVar = True

    type: Literal["distance"] = "distance"
    weight: float = Field(default=0.1, ge=0)

    def penalty(self, initial_ND: "Tensor", weight_ND: "Tensor", directions_KD: "Tensor") -> "Tensor":
        """-|W - W_0|^2 of one parameter, or of a part of it."""
        return -(weight_ND - initial_ND).square().sum()
