"""When there is nothing left to forget: the stopping rule of margin self-correction (MASC; arXiv:2606.02920, after its
abstract), for any forget objective and without validation data.

A token's margin is the true token's logit less the likeliest other one's: while it is positive, greedy decoding says
the token. After each epoch one forward pass over all forget rows tells the margins, and training ends once they are
small, on average, over a given share of all their tokens: those where they are smallest, because some tokens follow
from grammar and never lose theirs.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import Any

import torch
import torch.distributed as dist

from obliviate.data.schedule import Item
from obliviate.methods import Needs, Pass, Positions
from obliviate.schema import StopSpec
from obliviate.scoring import Stat
from obliviate.train.batch import Texts, collate
from obliviate.train.model import ScoredModel

MARGINS: Needs = {Pass.FORGET: {Stat.LOGP: Positions.ANSWER, Stat.RIVAL: Positions.ANSWER}}


def left(margins: Sequence[float], share: float) -> float:
    """The mean of what is positive of the margins, over that share of tokens, rounded up, where it is least; nats."""
    positive = sorted(max(0.0, margin) for margin in margins)
    counted = positive[: ceil(len(positive) * share - 1e-6)]
    return sum(counted) / len(counted)


def measure(
    model: ScoredModel, texts: Texts, rows: int, spec: StopSpec, *, size: int, max_length: int, device: torch.device
) -> dict[str, Any]:
    """What to log: the margin that is left, and whether training stops; the same on every worker. All call it."""
    margins = _everywhere(_margins(model, texts, rows, size=size, max_length=max_length, device=device))
    margin = left(margins, spec.share)
    return {"margin": margin, "settled": margin <= spec.margin}


@torch.no_grad()
def _margins(
    model: ScoredModel, texts: Texts, rows: int, *, size: int, max_length: int, device: torch.device
) -> list[float]:
    """Of the answer tokens of this worker's share of the forget rows. One that has fewer rows repeats one without
    counting it: all make the same number of forward passes."""
    items, rank, world = [Item(row) for row in range(rows)], dist.get_rank(), dist.get_world_size()
    found: list[float] = []
    model.eval()
    for turn in range(-(-rows // (size * world))):
        mine = items[(turn * world + rank) * size :][:size]
        batch = collate(texts, mine or items[:1], MARGINS, max_length).to(device)
        wanted = (batch.rows[Pass.FORGET], batch.answer_BT, tuple(MARGINS[Pass.FORGET]))
        out = model(batch.input_ids_BT, batch.attention_BT, {str(Pass.FORGET): wanted}, {})
        margin_BT = out[f"{Pass.FORGET}/{Stat.LOGP}"] - out[f"{Pass.FORGET}/{Stat.RIVAL}"]
        found += margin_BT[batch.answer_BT].tolist() if mine else []
    model.train()
    return found


def _everywhere(mine: list[float]) -> list[float]:
    """All workers' values together."""
    found: list[list[float]] = [[]] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return [value for each in found for value in each]


def settled(log: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a run's log says that its training ended so."""
    return any(line.get("stop", {}).get("settled", False) for line in log)
