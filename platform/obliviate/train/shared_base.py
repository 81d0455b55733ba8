"""DualOptim+ (Zhong et al. 2026, arXiv:2605.21539): Adam for two objectives in turn, whose moments are one base that
both fill, and for each of them what its own differ from it by.

With b_k the base's two moments before the update, corrected for their start, and g the gradient, an objective's own
states follow g - b_1 and g^2 - b_2; the step is that of Adam with the moments (own + base). Afterwards g enters the
base. Where the objectives agree the base carries the momentum; where they do not, each has its own. The second moment
may come out negative: its absolute value counts. Where its parts cancel the quotient has no bound, and rounding decides
it: no entry moves by more than the rate here.

After the authors' code, whose own moments decay by 0.9 and 0.95; the base's are `optim.betas`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from obliviate.schema import OptimSpec
from obliviate.train.optimizer import groups

OWN_BETAS = (0.9, 0.95)
EPS = 1e-8


class SharedBase(Optimizer):
    """One objective's; the first of them holds the base. A state for every parameter from the start, as `adamw` has."""

    def __init__(self, model: nn.Module, optim: OptimSpec, first: "SharedBase | None" = None) -> None:
        super().__init__(groups(model, optim), {"lr": optim.learning_rate, "betas": optim.betas})
        self._first = self if first is None else first
        names = ("own", "own_square", *(("base", "base_square") if first is None else ()))
        counts = ("step", *(("base_step",) if first is None else ()))
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {name: torch.zeros((), dtype=torch.float32) for name in counts}
                self.state[p] |= {name: torch.zeros_like(p) for name in names}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    _move(p, p.grad, self.state[p], self._first.state[p], group)


def _move(p: Tensor, g: Tensor, own: dict[str, Any], base: dict[str, Any], group: dict[str, Any]) -> None:
    own["step"] += 1
    taken, before = float(own["step"]), float(base["base_step"])
    means = []
    for name, value, own_beta, base_beta in (
        ("", g, OWN_BETAS[0], group["betas"][0]),
        ("_square", g.square(), OWN_BETAS[1], group["betas"][1]),
    ):
        shared = base[f"base{name}"]
        corrected = shared / (1 - base_beta**before) if before else shared
        own[f"own{name}"].lerp_(value - corrected, 1 - own_beta)
        means.append(own[f"own{name}"] / (1 - own_beta**taken) + corrected)
        shared.lerp_(value, 1 - base_beta)
    base["base_step"] += 1
    p.mul_(1 - group["lr"] * group["weight_decay"])
    deviation = torch.maximum(means[1].abs().sqrt(), means[0].abs())
    p.addcdiv_(means[0], deviation.add_(EPS), value=-group["lr"])
