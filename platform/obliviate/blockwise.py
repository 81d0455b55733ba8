"""From hidden states and the lm_head to per-token statistics, without holding [batch, length, vocabulary].

The only file that shifts labels: the token at position t is predicted by the hidden state at t - 1.
The lm_head is applied to the wanted positions alone, a block of the vocabulary at a time; softmax and means are
gathered from block to block (`formulas`), and the backward pass recomputes each block's logits, unless all of them are
small enough to be kept. Work per token: three matrix products with the head forward and backward, four with the
recomputation; memory: a few blocks of logits instead of all. Blocks of the vocabulary rather than of positions, because
the products stay large and a block's part of the head's gradient is complete when the block is done.

Shapes: B texts, T tokens, D hidden size, V vocabulary, N wanted positions, U different ones. Log-probabilities are in
nats, float32.
"""

from collections.abc import Iterator, Sequence, Set
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from obliviate.formulas import Statistics, floors, logit_gradient
from obliviate.head import AnyHead, Head
from obliviate.scoring import Stat, TokenStat, needs_reference

BLOCK_BYTES = 32 * 2**20  # of float32 logits
KEPT_BYTES = 128 * 2**20  # of logits in the head's type, up to which they are kept for the backward pass


def token_statistics(
    hidden_ND: Tensor,
    labels_N: Tensor,
    head: Head,
    stats: Set[TokenStat],
    reference: tuple[Tensor, AnyHead] | None = None,
) -> dict[TokenStat, Tensor]:
    """Each statistic as float32 [N], differentiable in the hidden states and in the head's weight and bias.

    `reference` is the frozen model's hidden states [N, D'] and head, for the statistics that `needs_reference`; it gets
    no gradient.
    """
    ordered = tuple(sorted(stats, key=str))
    kept_bytes = len(labels_N) * len(head.weight_VD) * head.weight_VD.element_size()
    keeps = torch.is_grad_enabled() and kept_bytes <= KEPT_BYTES
    if reference is None and (of_reference := [str(stat) for stat in ordered if needs_reference(stat)]):
        raise ValueError(f"{', '.join(of_reference)}: needs the reference model's hidden states and head")
    values = _BlockedStatistics.apply(  # type: ignore[no-untyped-call]
        hidden_ND, head.weight_VD, head.bias_V, labels_N, head.scale, head.softcap, ordered, reference, keeps
    )
    return dict(zip(ordered, values, strict=True))


def score_positions(
    hidden_BTD: Tensor,
    input_ids_BT: Tensor,
    wanted_BT: Tensor,
    head: Head,
    stats: Set[TokenStat],
    reference: tuple[Tensor, AnyHead] | None = None,
    alike_BT: Tensor | None = None,
) -> dict[TokenStat, Tensor]:
    """Statistics of the tokens at `wanted_BT`, as [B, T], 0 elsewhere. Position 0 has no predecessor: never wanted.

    The reference's hidden states are those of the wanted positions, in row-major order: [N, D']. `alike_BT` is a number
    for each token, the same where two texts agree from their beginning up to it; such tokens are scored once.
    """
    assert not wanted_BT[:, 0].any(), "the first token has no predecessor to be predicted from"
    place_N = wanted_BT.flatten().nonzero()[:, 0]
    first_U, which_N = _first_of_each(place_N if alike_BT is None else alike_BT.flatten()[place_N])
    place_U = place_N[first_U]
    hidden_UD = F.embedding(place_U - 1, hidden_BTD.flatten(0, 1))
    if reference is not None:
        reference = (reference[0][first_U], reference[1])
    values = token_statistics(hidden_UD, input_ids_BT.flatten()[place_U], head, stats, reference)
    # Gathered as embeddings are, because their gradients add up in the same order every time.
    return {
        stat: torch.zeros(input_ids_BT.shape, device=value_U.device).masked_scatter(
            wanted_BT, F.embedding(which_N, value_U[:, None])
        )
        for stat, value_U in values.items()
    }


def _first_of_each(number_N: Tensor) -> tuple[Tensor, Tensor]:
    """Of each of the U numbers its first place, [U], and which of them is at each place, [N]."""
    _, which_N, count_U = number_N.unique(return_inverse=True, return_counts=True)
    return which_N.argsort(stable=True)[count_U.cumsum(0) - count_U], which_N


def wanted_hidden(hidden_BTD: Tensor, wanted_BT: Tensor) -> Tensor:
    """The hidden states that predict the wanted tokens, [N, D] in row-major order: what a reference must keep."""
    return hidden_BTD[:, :-1][wanted_BT[:, 1:]]


def _blocks(vocabulary: int, positions: int) -> Iterator[slice]:
    """The columns of each block, so that its logits take BLOCK_BYTES."""
    width = max(1, BLOCK_BYTES // (4 * max(1, positions)))
    return (slice(first, min(first + width, vocabulary)) for first in range(0, vocabulary, width))


def _reference_logits(
    reference: tuple[Tensor, AnyHead] | None, columns: slice, stats: Sequence[TokenStat]
) -> Tensor | None:
    """Those of the block, where a statistic needs them."""
    if reference is None or not any(map(needs_reference, stats)):
        return None
    hidden_ND, head = reference
    return head.block(columns).logits(hidden_ND)


class _BlockedStatistics(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_N: Tensor,
        scale: float,
        softcap: float | None,
        stats: tuple[TokenStat, ...],
        reference: tuple[Tensor, AnyHead] | None,
        keeps: bool,
    ) -> tuple[Tensor, ...]:
        blocks = list(_blocks(len(weight_VD), len(labels_N)))
        of_reference = () if reference is None else (
            (columns, reference[1].block(columns).logits(reference[0])) for columns in blocks
        )  # fmt: skip
        gathered = Statistics(stats, labels_N, floors(stats, labels_N, of_reference))
        head = Head(weight_VD, bias_V, scale, softcap)
        products = []
        for columns in blocks:
            block = head.block(columns)
            product_NV = block.product(hidden_ND)
            gathered.add(block.logits_of(product_NV), columns, _reference_logits(reference, columns, stats))
            if keeps:
                products.append(product_NV)
        if Stat.REFERENCE_JS in stats:
            assert reference is not None
            for columns in blocks:
                z_NV, other = head.block(columns).logits(hidden_ND), reference[1].block(columns).logits(reference[0])
                gathered.add_to_divergence(z_NV, other)
        values, constants = gathered.values(), gathered.constants()
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, labels_N, gathered.lse_N, *constants.values(), *products)
        ctx.scale, ctx.softcap, ctx.stats, ctx.reference = scale, softcap, stats, reference
        ctx.of_constants = tuple(constants)
        return tuple(values[stat] for stat in stats)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, labels_N, lse_N, *others = ctx.saved_tensors
        head = Head(weight_VD, bias_V, ctx.scale, ctx.softcap)
        of_stat = dict(zip(ctx.stats, grads, strict=True))
        constants = dict(zip(ctx.of_constants, others, strict=False))
        products = others[len(constants) :]
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        compute_ND = hidden_ND.to(weight_VD.dtype)
        # float32: summed over blocks in bfloat16 it would lose the small contributions.
        grad_hidden_ND = torch.zeros_like(hidden_ND, dtype=torch.float32) if needs_hidden else None
        # A block's part of the head's gradient is whole at once: no sum over blocks, no float32 copy.
        grad_weight_VD = torch.empty_like(weight_VD) if needs_weight else None
        grad_bias_V = torch.empty_like(bias_V) if needs_bias and bias_V is not None else None
        for index, columns in enumerate(_blocks(len(weight_VD), len(labels_N))):
            block = head.block(columns)
            z_NV = block.logits_of(products[index] if products else block.product(compute_ND))
            reference_z_NV = _reference_logits(ctx.reference, columns, ctx.stats)
            dz_NV = logit_gradient(z_NV, labels_N, columns, of_stat, lse_N, constants, len(weight_VD), reference_z_NV)
            if ctx.softcap is not None:
                dz_NV *= 1 - (z_NV / ctx.softcap).square()
            if ctx.scale != 1.0:
                dz_NV *= ctx.scale
            if grad_bias_V is not None:
                grad_bias_V[columns] = dz_NV.sum(0)
            dz_NV = dz_NV.to(weight_VD.dtype)
            if grad_hidden_ND is not None:
                grad_hidden_ND += dz_NV @ weight_VD[columns]
            if grad_weight_VD is not None:
                torch.mm(dz_NV.T, compute_ND, out=grad_weight_VD[columns])
        grad_hidden_ND = None if grad_hidden_ND is None else grad_hidden_ND.to(hidden_ND.dtype)
        return (grad_hidden_ND, grad_weight_VD, grad_bias_V, *[None] * 6)
