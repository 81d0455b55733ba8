"""The output layer (lm_head) as scoring needs it: plain tensors, with what some families do to their logits.

Shapes: N positions, D hidden size, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Head(NamedTuple):
    """The output layer: logits = softcap * tanh(scale * (h W^T + b) / softcap), the tanh only where softcap is set."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def block(self, columns: slice) -> "Head":
        """The part that makes these columns of the logits."""
        bias_V = None if self.bias_V is None else self.bias_V[columns]
        return self._replace(weight_VD=self.weight_VD[columns], bias_V=bias_V)

    def to(self, device: torch.device) -> "Head":
        bias_V = None if self.bias_V is None else self.bias_V.to(device)
        return self._replace(weight_VD=self.weight_VD.to(device), bias_V=bias_V)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """float32 [N, V]."""
        return self.logits_of(self.product(hidden_ND))

    def product(self, hidden_ND: Tensor) -> Tensor:
        """h W^T in the weight's type, [N, V]."""
        return hidden_ND.to(self.weight_VD.dtype) @ self.weight_VD.T

    def logits_of(self, product_NV: Tensor) -> Tensor:
        """float32 [N, V]; in float32 it may be the product itself."""
        z_NV = product_NV.float()
        if self.bias_V is not None:
            z_NV = z_NV + self.bias_V.float()
        if self.scale != 1.0:
            z_NV = z_NV * self.scale
        return z_NV if self.softcap is None else torch.tanh(z_NV / self.softcap) * self.softcap


class GenericHead(NamedTuple):
    """Of two models' hidden states side by side, [N, D + D']: the first one's logits, less `alpha` times what those of
    the second, which has learned more, are above them (arXiv:2310.02238)."""

    model: Head
    reinforced: Head
    alpha: float

    def block(self, columns: slice) -> "GenericHead":
        return self._replace(model=self.model.block(columns), reinforced=self.reinforced.block(columns))

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """float32 [N, V]."""
        own_ND, other_ND = hidden_ND.tensor_split([self.model.weight_VD.shape[-1]], dim=-1)
        z_NV = self.model.logits(own_ND)
        return z_NV - self.alpha * (self.reinforced.logits(other_ND) - z_NV).relu()


class SteeredHead(NamedTuple):
    """Of one model's hidden states behind nothing, a novice's prompt and an expert's, side by side, [N, 3 D]: the first
    one's logits, and `eta` times what the second one's are above the third's (arXiv:2410.02760)."""

    model: Head
    eta: float

    def block(self, columns: slice) -> "SteeredHead":
        return self._replace(model=self.model.block(columns))

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """float32 [N, V]."""
        own_NV, novice_NV, expert_NV = (self.model.logits(each_ND) for each_ND in hidden_ND.tensor_split(3, dim=-1))
        return own_NV + self.eta * (novice_NV - expert_NV)


AnyHead = Head | GenericHead | SteeredHead
