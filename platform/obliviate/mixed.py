"""Parts of models that reckon in float32 amid others in bfloat16, and whose products of the two torch refuses."""

import functools

import torch
from torch import nn

# MiniMax's decays are buffers, which FSDP casts no more than they should be: rounded, they would be exported. xLSTM's
# gates are float32 in any model, GPT-1's mask is a buffer.
PARTS = {"minimax.MiniMaxLightningAttention", "xlstm.xLSTMBackend", "openai.Attention"}


def allow(model: nn.Module, dtype: torch.dtype, device: str) -> None:
    """Of effect where `dtype`, that of the products, is not float32."""
    if dtype == torch.float32:
        return
    for module in model.modules():
        kind = type(module)
        if f"{kind.__module__.rpartition('.modeling_')[2]}.{kind.__name__}" in PARTS:
            cast = torch.autocast(device, dtype=dtype)
            module.forward = functools.wraps(module.forward)(cast(module.forward))
