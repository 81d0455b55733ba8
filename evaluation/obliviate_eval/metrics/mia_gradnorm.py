"""Gradient-norm attack (Nasr et al. 2019, arXiv:1812.00910; for language models Wang et al. 2024, arXiv:2402.17012)."""

from math import isfinite
from typing import ClassVar, Literal

from obliviate_eval.metrics.attack import Attack
from obliviate_eval.records import Probe, Record


class MiaGradNorm(Attack):
    """The signal is the L2 norm, over all parameters, of the gradient of the true answer's mean loss: a text that was
    trained on pulls less. OpenUnlearning takes the mean of the norms of the parameter tensors instead, which depends on
    how a model is cut into tensors; one backward pass per text is the dearest probe of all.
    """

    title: ClassVar = "Gradient-norm attack: AUC of forget against holdout"
    direction: ClassVar = "a retain model's value is the aim; 1: the forget set still looks trained on"
    source: ClassVar = "arXiv:1812.00910; arXiv:2402.17012"
    needs: ClassVar = frozenset({Probe.GRADIENT_NORM})

    type: Literal["mia_gradnorm"] = "mia_gradnorm"

    def signal(self, record: Record, reference: Record | None) -> float | None:
        norm = record.gradient_norm
        return norm if norm is not None and isfinite(norm) else None
