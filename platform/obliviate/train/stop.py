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

from obliviate.data.schedule import Item
from obliviate.methods import Needs, Pass, Positions
from obliviate.schema import StopSpec
from obliviate.scoring import Stat
from obliviate.train.batch import Texts, collate
from obliviate.train.model import ScoredModel
from obliviate.train.together import everyones, parts_of

MARGINS: Needs = {Pass.FORGET: {Stat.LOGP: Positions.ANSWER, Stat.RIVAL: Positions.ANSWER}}


def left(margins: Sequence[float], share: float) -> float:
    """The mean of what is positive of the margins, over that share of tokens, rounded up, where it is least; nats."""
    positive = sorted(max(0.0, margin) for margin in margins)
    counted = positive[: ceil(len(positive) * share - 1e-6)]
    return sum(counted) / len(counted)


@torch.no_grad()
def measure(
    model: ScoredModel, texts: Texts, rows: int, spec: StopSpec, *, size: int, max_length: int, device: torch.device
) -> dict[str, Any]:
    """What to log: the margin that is left, and whether training stops; the same on every worker. All call it."""
    found: dict[int, list[float]] = {}
    model.eval()
    for part in parts_of(rows, size):
        batch = collate(texts, [Item(row) for row in part], MARGINS, max_length).to(device)
        wanted = (batch.rows[Pass.FORGET], batch.answer_BT, tuple(MARGINS[Pass.FORGET]))
        out = model(batch.input_ids_BT, batch.attention_BT, {str(Pass.FORGET): wanted}, {})
        margin_BT = out[f"{Pass.FORGET}/{Stat.LOGP}"] - out[f"{Pass.FORGET}/{Stat.RIVAL}"]
        for row, margin_T, answer_T in zip(part, margin_BT, batch.answer_BT, strict=True):
            found[row] = margin_T[answer_T].tolist()
    model.train()
    margin = left([value for margins in everyones(found).values() for value in margins], spec.share)
    return {"margin": margin, "settled": margin <= spec.margin}


def settled(log: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a run's log says that its training ended so."""
    return any(line.get("stop", {}).get("settled", False) for line in log)
