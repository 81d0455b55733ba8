"""Orthogonalisation (Łucki et al. 2024, arXiv:2409.18025): what unlearning added to the hidden states is taken out.

Of each layer the direction r = mean(h_unlearned - h_original) over the questions' tokens; then every state h of the
unlearned model becomes h - (h r^) r^, r^ being r at length 1. That also takes what the original has along r, and ruins a
model whose states moved along a direction that all of them use; so a second form sets that part to the original's mean.

As in the authors' code, tokens that lie far from all others (the first of a text, mostly, whose norm is huge) are left
out of the means. Unlike there, all questions of T count, not only those that the original answers and the unlearned model
does not: both must then be asked first.

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
    """Of a model's states over texts, [L, D] in float32, and of which of their tokens."""

    mean_LD: Tensor
    kept_N: Tensor


def means(model: "PreTrainedModel", texts: Sequence[Ids], batch_tokens: int, kept_N: Tensor | None = None) -> Means:
    """Over the tokens of the texts but the first of each, which has no meaning of its own, and outliers; or over
    `kept_N`, those that another model's means are of."""
    places = [tuple(range(1, len(text))) for text in texts]
    states_LND = torch.cat(layer_states(model, texts, places, batch_tokens), dim=1).float()
    if kept_N is None:
        kept_N = _ordinary(states_LND.norm(dim=-1))
    return Means(states_LND[:, kept_N].mean(1), kept_N)


def _ordinary(norm_LN: Tensor) -> Tensor:
    """Tokens whose norm is no outlier at any layer; all where there are too few to tell."""
    spread_L1 = norm_LN.std(dim=1, keepdim=True)
    far_LN = norm_LN - norm_LN.mean(dim=1, keepdim=True) > OUTLIER * spread_L1
    kept_N = ~far_LN.any(0)
    return kept_N if kept_N.any() else torch.ones_like(kept_N)


def directions(unlearned: Means, original: Means) -> Tensor:
    """r^ of each layer, [L, D]; 0 where the two models do not differ."""
    moved_LD = unlearned.mean_LD - original.mean_LD
    return torch.nn.functional.normalize(moved_LD, dim=-1)


def most_moved(unlearned: Means, original: Means) -> int:
    """The layer whose states moved furthest, as a share of their length."""
    moved_L = (unlearned.mean_LD - original.mean_LD).norm(dim=-1) / original.mean_LD.norm(dim=-1)
    return int(moved_L.nan_to_num().argmax())


@contextmanager
def without(model: "PreTrainedModel", directions_LD: Tensor, mean_LD: Tensor | None = None) -> Iterator[None]:
    """While the block runs, no layer's states have a part along its direction, or, given the original's mean states,
    all have the same part as these: h - ((h - mean) r^) r^. A direction of 0 takes nothing away."""
    directions_LD = directions_LD.to(model.device)
    parts_L = 0 * directions_LD[:, 0] if mean_LD is None else (mean_LD.to(model.device) * directions_LD).sum(-1)

    def remove(layer: int, hidden_BTD: Tensor) -> Tensor:
        r_D = directions_LD[layer]
        part_BT1 = (hidden_BTD.float() @ r_D)[..., None] - parts_L[layer]
        return (hidden_BTD.float() - part_BT1 * r_D).to(hidden_BTD.dtype)

    with changed(model, remove):
        yield
