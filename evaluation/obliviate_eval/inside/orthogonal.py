"""Orthogonalisation (Łucki et al. 2024, arXiv:2409.18025): what unlearning added to the hidden states is taken out.

Of each layer the direction r = mean(h_unlearned - h_original) over the questions' tokens; then every state h of the
unlearned model becomes h - (h r^) r^, r^ being r at length 1. That also takes what the original has along r, which
ruins a model whose states moved along a direction that all of them use. So a second form sets that part to the
original's mean, and leaves tokens alone that lie far from all others (a text's first, mostly, whose norm is huge).

As in the authors' code, such tokens are left out of the means. Unlike there, all questions of T count, not only those
that the original answers and the unlearned model does not: both must then be asked first.

Shapes: L layers, D hidden size, N tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from obliviate_eval.inside.states import Ids, changed, layer_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OUTLIER = 3.0  # standard deviations of the tokens' norms, at any layer


class Means(NamedTuple):
    """Of a model's states over texts, [L, D] in float32, and of which of their tokens: those whose norm is at no layer
    above its limit."""

    mean_LD: Tensor
    kept_N: Tensor
    limit_L: Tensor


def means(model: "PreTrainedModel", texts: Sequence[Ids], batch_tokens: int, other: Means | None = None) -> Means:
    """Over the tokens of the texts but the first of each, which has no meaning of its own, and outliers; or over those
    that another model's means are of."""
    places = [tuple(range(1, len(text))) for text in texts]
    states_LND = torch.cat(layer_states(model, texts, places, batch_tokens), dim=1).float()
    norm_LN = states_LND.norm(dim=-1)
    limit_L = norm_LN.mean(1) + OUTLIER * norm_LN.std(1)
    kept_N = (norm_LN <= limit_L[:, None]).all(0) if other is None else other.kept_N
    return Means(states_LND[:, kept_N].mean(1), kept_N, limit_L)


def directions(unlearned: Means, original: Means) -> Tensor:
    """r^ of each layer, [L, D]; 0 where the two models do not differ."""
    moved_LD = unlearned.mean_LD - original.mean_LD
    return torch.nn.functional.normalize(moved_LD, dim=-1)


def most_moved(unlearned: Means, original: Means) -> int:
    """The layer whose states moved furthest, as a share of their length."""
    moved_L = (unlearned.mean_LD - original.mean_LD).norm(dim=-1) / original.mean_LD.norm(dim=-1)
    return int(moved_L.nan_to_num().argmax())


@contextmanager
def without(model: "PreTrainedModel", directions_LD: Tensor, original: Means | None = None) -> Iterator[None]:
    """While the block runs, no layer's states have a part along its direction; or, given the original's means, all
    ordinary ones have the same part as these: h - ((h - mean) r^) r^. A direction of 0 takes nothing away."""
    directions_LD = directions_LD.to(model.device)
    parts_L = torch.zeros(len(directions_LD)) if original is None else (original.mean_LD * directions_LD.cpu()).sum(-1)
    limits_L = torch.full_like(parts_L, torch.inf) if original is None else original.limit_L

    def remove(layer: int, hidden_BTD: Tensor) -> Tensor:
        states_BTD, r_D = hidden_BTD.float(), directions_LD[layer]
        part_BT1 = (states_BTD @ r_D)[..., None] - float(parts_L[layer])
        ordinary_BT1 = states_BTD.norm(dim=-1, keepdim=True) <= float(limits_L[layer])
        return torch.where(ordinary_BT1, states_BTD - part_BT1 * r_D, states_BTD).to(hidden_BTD.dtype)

    with changed(model, remove):
        yield
