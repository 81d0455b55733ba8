"""K-FADE (McKinney et al. 2026, arXiv:2602.10568): a few uphill Gauss-Newton steps on the forget set, in the
metric of the retain set."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import Curvature
from obliviate.methods.likelihood import OfLikelihood


class KFADE(OfLikelihood):
    """A step moves each linear layer's weight by -eta (S + damping)^-1 G (A + damping)^-1: G is the gradient of the
    mean of log p over the forget set's answer tokens, A the sum of x x^T over what the layer reads of `texts` retain
    rows, and S that of g g^T over the gradients that their answers' log-probabilities send to its outputs (K-FAC); A
    and S are divided by their mean eigenvalues. So forgetting goes where the retain set's outputs change least.

    After the paper, which takes EK-FAC and labels that are sampled from the model; here the retain rows' own answers
    stand for those. A and S are of the starting model, also in later steps.
    """

    title: ClassVar = "K-FADE: a few Gauss-Newton steps uphill, divided by the retain set's curvature (K-FAC)"
    when: ClassVar = "Few steps, no optimiser; keeps what the retain rows' outputs are. Memory: two matrices a layer"
    source: ClassVar = "arXiv:2602.10568"

    type: Literal["kfade"] = "kfade"
    eta: float = Field(default=1.0, gt=0)
    steps: int = Field(default=3, ge=1)
    damping: float = Field(default=0.1, gt=0)
    texts: int = Field(default=256, ge=1)  # retain rows that the curvature is found from

    @property
    def ascent(self) -> Curvature:
        return Curvature(self.eta, self.steps, self.damping, self.texts)
