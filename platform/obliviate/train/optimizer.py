"""AdamW as all trainings use it, with a state for every parameter from the start."""

from collections.abc import Iterable
from typing import Any

import torch

from obliviate.schema import OptimSpec
from obliviate.train.shards import whole


def adamw(model: torch.nn.Module, optim: OptimSpec) -> torch.optim.AdamW:
    """Every parameter has its state from the start, also one that no loss reaches (above the layer that RMU steers): a
    checkpoint holds the state of all.
    """
    optimizer = torch.optim.AdamW(groups(model, optim), lr=optim.learning_rate, betas=optim.betas, fused=True)
    for p in (p for group in optimizer.param_groups for p in group["params"]):
        step = torch.zeros((), dtype=torch.float32, device=p.device)
        optimizer.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    return optimizer


def groups(model: torch.nn.Module, optim: OptimSpec) -> list[dict[str, Any]]:
    """The trained parameters: matrices are decayed, vectors (norms, biases) are not, as in the Hugging Face trainer."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in found if group["params"]]


def clip(parameters: Iterable[torch.nn.Parameter], limit: float | None) -> float:
    """The gradient's norm over all workers, before it is clipped to `limit`."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf") if limit is None else limit)
    return float(whole(norm))
