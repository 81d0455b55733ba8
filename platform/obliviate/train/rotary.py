"""Rotations that depend on how long a text is (LongRoPE, arXiv:2402.13753), for texts of several lengths in one batch.

transformers goes by the longest text of a batch, which is another model for the short ones beside it.
Shapes: B texts, T tokens.
"""

from typing import Any

import torch
from torch import Tensor, nn


def by_text(model: nn.Module) -> bool:
    """Let each row of position ids be rotated by its own largest; whether the model has such rotations."""
    found = [module for module in model.modules() if "longrope" in _kinds(module)]
    for module in found:
        module.forward = _RowByRow(module.forward)
    return bool(found)


def _kinds(module: nn.Module) -> set[str]:
    kind: Any = getattr(module, "rope_type", None)
    return set(kind.values()) if isinstance(kind, dict) else {kind} if isinstance(kind, str) else set()


def positions(real_BT: Tensor) -> Tensor:
    """Of tokens that are padded on the right: padding stays where the text ends, and makes it no longer."""
    return (real_BT.cumsum(-1) - 1).clamp(min=0)


class _RowByRow:
    def __init__(self, forward: Any) -> None:
        self._forward = forward

    def __call__(self, x: Tensor, position_ids: Tensor, *rest: Any, **keywords: Any) -> tuple[Tensor, ...]:
        rows = [self._forward(x, row_T[None], *rest, **keywords) for row_T in position_ids]
        return tuple(torch.cat(parts) for parts in zip(*rows, strict=True))
