"""AdamW as all trainings use it, with a state for every parameter from the start."""

from collections.abc import Iterable

import torch

from obliviate.schema import OptimSpec
from obliviate.train.shards import whole


def adamw(model: torch.nn.Module, optim: OptimSpec) -> torch.optim.AdamW:
    """Matrices are decayed, vectors (norms, biases) are not, as in the Hugging Face trainer.

    Every parameter has its state from the start, also one that no loss reaches (above the layer that RMU steers): a
    checkpoint holds the state of all.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.AdamW(groups, lr=optim.learning_rate, betas=optim.betas, fused=True)
    for p in trained:
        step = torch.zeros((), dtype=torch.float32, device=p.device)
        optimizer.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    return optimizer


def clip(parameters: Iterable[torch.nn.Parameter], limit: float | None) -> float:
    """The gradient's norm over all workers, before it is clipped to `limit`."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf") if limit is None else limit)
    return float(whole(norm))
