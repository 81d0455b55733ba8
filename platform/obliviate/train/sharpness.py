"""Sharpness-aware minimisation of the forget term (Foret et al. 2021, arXiv:2010.01412; for unlearning Fan et al.
2025, arXiv:2502.05374): its gradient is taken where the loss is worst nearby, at theta + rho g / |g|, so that what is
forgotten there stays forgotten when the weights are moved a little, by quantisation or by a relearning attack.

One more forward and backward pass over the forget texts a step, and a copy of the trained weights while it lasts.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from obliviate.train.shards import restored, whole


@contextmanager
def perturbed(model: nn.Module, rho: float) -> Iterator[None]:
    """The weights moved by `rho` (of the norm over all of them together) along their gradients, which are cleared; they
    come back to exactly what they were. Every worker calls it: the norm is over all shards.
    """
    trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    norm = float(whole(torch.nn.utils.get_total_norm(gradients)))
    with restored(trained):
        with torch.no_grad():
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter.add_(gradient, alpha=rho / max(norm, 1e-12))
                parameter.grad = None
        yield
