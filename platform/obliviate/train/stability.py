"""Stable unlearning (after StableUN, Wu et al. 2025, arXiv:2509.20230): what is forgotten shall be so all around, and
what is kept shall not pay for it.

Forgetting feedback: to the forget gradient at the weights, that at theta + rho g / |g| is added, the nearby point where
forgetting is most easily undone (`sharpness` takes the second in place of the first). Remembering feedback: where the
sum f runs against the regularizers' gradient r, <f, r> < 0, it loses that part, f - (<f, r> / <r, r>) r; the update
follows both. The products are over all parameters together. The paper's own weighting could not be checked.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from obliviate.schema import StabilitySpec
from obliviate.train.rectification import opposed
from obliviate.train.sharpness import perturbed


class Stability:
    def __init__(self, model: nn.Module, spec: StabilitySpec) -> None:
        self._model, self._spec = model, spec
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._forget: list[Tensor | None] = []

    def look_around(self, gradients: Callable[[], tuple[object, float]]) -> float:
        """Of forget gradients that are there: add those nearby, which `gradients` leaves, and take all aside. The
        tokens that it saw. All workers call it."""
        here = [parameter.grad for parameter in self._trained]
        with perturbed(self._model, self._spec.rho):
            _, tokens = gradients()
        for parameter, own in zip(self._trained, here, strict=True):
            if own is not None and parameter.grad is not None:
                own.add_(parameter.grad, alpha=self._spec.feedback)
            parameter.grad = None
        self._forget = here
        return tokens

    @torch.no_grad()
    def join(self) -> None:
        """The regularizers' gradients are there: add the forget gradients, less what runs against them."""
        gradients = [(f, p.grad) for f, p in zip(self._forget, self._trained, strict=True) if p.grad is not None]
        excess = opposed([(f, r) for f, r in gradients if f is not None], [r for _, r in gradients])
        for parameter, forget in zip(self._trained, self._forget, strict=True):
            if parameter.grad is None:
                parameter.grad = forget
            else:
                parameter.grad.mul_(1 - excess)
                if forget is not None:
                    parameter.grad.add_(forget)
        self._forget = []
