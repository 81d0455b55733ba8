"""Per-token statistics of logits that a model has already made, as Hugging Face's trainers hand them over.

Of one block that is the whole vocabulary (`formulas`). Where hidden states are at hand, `blockwise` needs far less
memory.

Shapes: B texts, T tokens, V vocabulary, N wanted positions.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from obliviate.blockwise import wanted_hidden
from obliviate.formulas import Statistics, floors, logit_gradient
from obliviate.scoring import Activation, AnyStat, Stat, TokenStat, needs_reference


def score_logits(
    logits_BTV: Tensor,
    input_ids_BT: Tensor,
    wanted_BT: Tensor,
    stats: Collection[AnyStat],
    reference_z_NV: Tensor | None = None,
) -> dict[AnyStat, Tensor]:
    """Statistics of the tokens at `wanted_BT` as float32 [B, T], 0 elsewhere; position 0 is never wanted.

    `reference_z_NV`: the frozen model's logits that predict the wanted tokens, in row-major order; it gets no gradient.
    Raises ValueError where a statistic needs it and it is None, or is of a layer's hidden states.
    """
    ordered: tuple[TokenStat, ...] = tuple(
        sorted((stat for stat in stats if not isinstance(stat, Activation)), key=str)
    )
    if len(ordered) < len(stats):
        raise ValueError(f"{', '.join(map(str, set(stats) - set(ordered)))}: needs hidden states, and here are logits")
    if reference_z_NV is None and (of_reference := [str(stat) for stat in ordered if needs_reference(stat)]):
        raise ValueError(f"{', '.join(of_reference)}: needs the reference model's logits")
    z_NV = wanted_hidden(logits_BTV, wanted_BT).float()
    reference_z_NV = None if reference_z_NV is None else reference_z_NV.detach().float()
    values = _Statistics.apply(z_NV, input_ids_BT[wanted_BT], ordered, reference_z_NV)  # type: ignore[no-untyped-call]
    blank_BT = torch.zeros(wanted_BT.shape, device=z_NV.device)
    return {stat: blank_BT.masked_scatter(wanted_BT, value_N) for stat, value_N in zip(ordered, values, strict=True)}


class _Statistics(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z_NV: Tensor, labels_N: Tensor, stats: tuple[TokenStat, ...], reference_z_NV: Tensor | None
    ) -> tuple[Tensor, ...]:
        columns = slice(0, z_NV.shape[-1])
        of_reference = () if reference_z_NV is None else ((columns, reference_z_NV),)
        gathered = Statistics(stats, labels_N, floors(stats, labels_N, of_reference))
        gathered.add(z_NV, columns, reference_z_NV)
        if Stat.REFERENCE_JS in stats:
            assert reference_z_NV is not None
            gathered.add_to_divergence(z_NV, reference_z_NV)
        values, constants = gathered.values(), gathered.constants()
        ctx.save_for_backward(z_NV, labels_N, gathered.lse_N, reference_z_NV, *constants.values())
        ctx.stats, ctx.of_constants = stats, tuple(constants)
        return tuple(values[stat] for stat in stats)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z_NV, labels_N, lse_N, reference_z_NV, *constants = ctx.saved_tensors
        of_stat = dict(zip(ctx.stats, grads, strict=True))
        kept = dict(zip(ctx.of_constants, constants, strict=True))
        vocabulary = z_NV.shape[-1]
        columns = slice(0, vocabulary)
        grad_NV = logit_gradient(z_NV, labels_N, columns, of_stat, lse_N, kept, vocabulary, reference_z_NV)
        return grad_NV, None, None, None
