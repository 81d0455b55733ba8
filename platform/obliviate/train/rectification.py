"""Gradient rectified unlearning (GRU; Wang et al. 2025, arXiv:2503.09117): forget only what costs nothing that is kept.

The regularizers are not trained on. The running mean m of their gradient says which way what is to be kept gets worse,
and a forget gradient g that runs against it, <g, m> < 0, loses that part: g - (<g, m> / <m, m>) m, the nearest gradient
along which a small step does not raise the regularizers' loss. Any other gradient is left as it is. The products are
over all parameters together. As in the published code, AdamW then scales each entry by itself: the promise is plain
gradient descent's, to first order.

m <- share x (the step's own gradient) + (1 - share) x m begins at zero, which shortens it at first and does not turn
it. It lies in the optimiser's state: sharded as the weights are, and kept in checkpoints.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from obliviate.train.shards import local

MEAN = "retain_gradient"  # of a parameter's state


class Rectification:
    """Made before a checkpoint is loaded, which then fills the running mean."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, share: float) -> None:
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._forget: list[Tensor | None] = []
        self._optimizer, self._share = optimizer, share  # not its state: loading a checkpoint puts another one there
        for parameter in self._trained:
            optimizer.state[parameter][MEAN] = torch.zeros_like(parameter)

    def hold(self) -> None:
        """Take the forget objective's gradients aside: those that come next are the regularizers'."""
        self._forget = [parameter.grad for parameter in self._trained]
        for parameter in self._trained:
            parameter.grad = None

    @torch.no_grad()
    def rectify(self) -> None:
        """The regularizers' gradients enter the mean, and the rectified forget gradients take their place. All workers
        call it: the products are over all shards."""
        means = [self._optimizer.state[parameter][MEAN] for parameter in self._trained]
        for parameter, mean in zip(self._trained, means, strict=True):
            mean.mul_(1 - self._share)
            if parameter.grad is not None:  # else no text's loss reaches it
                mean.add_(parameter.grad, alpha=self._share)
        pairs = [(forget, mean) for forget, mean in zip(self._forget, means, strict=True) if forget is not None]
        excess = opposed(pairs, means)
        for parameter, forget, mean in zip(self._trained, self._forget, means, strict=True):
            parameter.grad = forget
            if excess:
                parameter.grad = mean * -excess if forget is None else forget.sub_(mean, alpha=excess)
        self._forget = []


def opposed(pairs: Sequence[tuple[Tensor, Tensor]], direction: Sequence[Tensor]) -> float:
    """<f, d> / <d, d> of the pairs (f, d) where f runs against d, <f, d> < 0; else 0. `direction`: all of d."""
    along = product(pairs) if pairs else 0.0
    square = product(zip(direction, direction, strict=True)) if along < 0 else 0.0
    # One so short that its square underflows says nothing of a direction.
    return along / square if square > torch.finfo(torch.float32).tiny else 0.0


def product(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Inner product over all pairs, and over the shards of all workers."""
    shares = [(local(one) * local(other)).sum(dtype=torch.float64) for one, other in pairs]
    total = torch.stack(shares).sum()
    dist.all_reduce(total)
    return float(total)
