"""What the starting model says about fixed texts: constants, computed once before the first step.

No second model is held. NPO and DPO need the answer's log-probabilities, RMU the hidden states of one layer; KL and
UNDIAL need, for every text that the schedule will visit, the final hidden states, which with the frozen output layer
stand for its distributions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from obliviate.data.schedule import Item
from obliviate.methods import Needs, Positions, Text, widest
from obliviate.scoring import Activation, AnyStat, TokenScores, needs_reference
from obliviate.train.batch import Batch, TextKey, Texts, collate

if TYPE_CHECKING:
    from obliviate.train.model import ScoredModel


@dataclass
class Reference:
    """Per text, on the CPU: statistics [wanted tokens] or [wanted tokens, D], and hidden states [wanted tokens, D]."""

    stats: dict[tuple[TextKey, AnyStat], Tensor] = field(default_factory=dict)
    hidden: dict[TextKey, Tensor] = field(default_factory=dict)

    def scores(self, each: Text, stats: Mapping[AnyStat, Positions], batch: Batch) -> TokenScores:
        """The kept statistics laid out like the trained model's scores of the same texts; 0 where not wanted."""
        wanted_BT = batch.wanted_BT(each, widest(stats.values()))
        laid_out: dict[AnyStat, Tensor] = {}
        for stat in stats:
            values = torch.cat([self.stats[key, stat] for key in batch.keys[each.text]]).to(wanted_BT.device)
            laid_out[stat] = values.new_zeros((*wanted_BT.shape, *values.shape[1:]))
            laid_out[stat][wanted_BT] = values
        return batch.scores(each, laid_out)

    def hidden_of(self, each: Text, batch: Batch) -> Tensor:
        return torch.cat([self.hidden[key] for key in batch.keys[each]]).to(batch.input_ids_BT.device)


def scored_at(stats: Mapping[AnyStat, Positions]) -> Positions:
    """Where a pass is scored: the widest that its statistics of the output ask for."""
    return widest([Positions.ANSWER, *(at for stat, at in stats.items() if not isinstance(stat, Activation))])


def reference_needs(needs: Needs) -> tuple[dict[Text, Mapping[AnyStat, Positions]], dict[Text, Positions]]:
    """Of the passes' texts: the statistics, and where the hidden states, that the starting model must leave behind."""
    stats = {each.text: stats for each, stats in needs.items() if each.of_reference}
    hidden = {each: scored_at(stats) for each, stats in needs.items() if any(map(needs_reference, stats))}
    return stats, hidden


def compute(
    model: "ScoredModel",
    texts: Texts,
    needs: Needs,
    items_of_worker: Sequence[Sequence[Item]],
    worker: int,
    *,
    size: int,
    max_length: int,
    device: torch.device,
    known: Reference | None = None,
) -> Reference:
    """Run the starting model once over each text that this worker will visit and that is not `known`.

    `items_of_worker` holds every worker's items, because all workers must make equally many forward passes: one with
    fewer texts repeats its last. What is known must be known to all of them.
    """
    stats, hidden = reference_needs(needs)
    kept = known or Reference()
    for each in {**stats, **hidden}:
        lists = [
            [item for item in _distinct(texts, each, items) if not _is_known(kept, texts.key(each, item), each, needs)]
            for items in items_of_worker
        ]
        rounds = max(-(-len(items) // size) for items in lists)
        mine = lists[worker]
        for turn in range(rounds):
            part = mine[turn * size : (turn + 1) * size] or mine[-1:]
            batch = collate(texts, part, {each: needs[each]}, max_length).to(device)
            _keep(kept, model, each, batch, stats.get(each, {}), hidden.get(each))
    return kept


@torch.no_grad()
def _keep(
    kept: Reference,
    model: "ScoredModel",
    each: Text,
    batch: Batch,
    stats: Mapping[AnyStat, Positions],
    hidden: Positions | None,
) -> None:
    rows, keys = batch.rows[each], batch.keys[each]
    wanted_BT = batch.wanted_BT(each, widest([Positions.ANSWER, *stats.values()]))
    hidden_BT = None if hidden is None else batch.wanted_BT(each, hidden)
    out = model(
        batch.input_ids_BT,
        batch.attention_BT,
        {str(each): (rows, wanted_BT, tuple(stats))},
        {},
        {} if hidden_BT is None else {str(each): (rows, hidden_BT)},
    )
    for stat in stats:
        values = out[f"{each}/{stat}"][wanted_BT].cpu().split(wanted_BT.sum(-1).tolist())
        kept.stats |= {(key, stat): value.clone() for key, value in zip(keys, values, strict=True)}
    if hidden_BT is not None:
        values = out[f"{each}/hidden"].cpu().split(hidden_BT.sum(-1).tolist())
        kept.hidden |= {key: value.clone() for key, value in zip(keys, values, strict=True)}


def _is_known(kept: Reference, key: TextKey, each: Text, needs: Needs) -> bool:
    stats, hidden = reference_needs(needs)
    if each in hidden and key not in kept.hidden:
        return False
    return all((key, stat) in kept.stats for stat in stats.get(each, {}))


def _distinct(texts: Texts, each: Text, items: Sequence[Item]) -> list[Item]:
    """One item for each different text of the pass."""
    return list({texts.key(each, item): item for item in items}.values())
