"""What the starting model says about fixed texts: constants, computed once before the first step.

No second model is held. NPO and DPO need the answer's log-probabilities; KL needs, for every text that the schedule
will visit, the final hidden states, which with the frozen output layer stand for its distributions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from obliviate.data.schedule import Item
from obliviate.methods import Pass, Positions
from obliviate.scoring import Stat, TokenScores
from obliviate.train.batch import Batch, TextKey, Texts, collate
from obliviate.train.model import ScoredModel

Needs = Mapping[Pass, Mapping[Stat, Positions]]


@dataclass
class Reference:
    """Per text, on the CPU: log-probabilities [answer tokens] and hidden states [wanted tokens, D]."""

    logp: dict[TextKey, Tensor] = field(default_factory=dict)
    hidden: dict[TextKey, Tensor] = field(default_factory=dict)

    def scores(self, each: Pass, batch: Batch) -> TokenScores:
        """The kept log-probabilities laid out like the trained model's scores of the same texts."""
        rows = batch.rows[each.text]
        answer_BT = batch.answer_BT[rows]
        values = torch.cat([self.logp[key] for key in batch.keys[each.text]]).to(answer_BT.device)
        logp_BT = torch.zeros(answer_BT.shape, device=answer_BT.device).masked_scatter(answer_BT, values)
        return TokenScores({Stat.LOGP: logp_BT}, answer_BT, batch.sequence_BT[rows])

    def hidden_of(self, each: Pass, batch: Batch) -> Tensor:
        return torch.cat([self.hidden[key] for key in batch.keys[each]]).to(batch.input_ids_BT.device)


def reference_needs(needs: Needs) -> tuple[dict[Pass, Positions], dict[Pass, Positions]]:
    """The passes whose log-probabilities, and those whose hidden states, the starting model must leave behind."""
    logp = {each.text: stats[Stat.LOGP] for each, stats in needs.items() if each.of_reference}
    hidden = {each: stats[Stat.REFERENCE_KL] for each, stats in needs.items() if Stat.REFERENCE_KL in stats}
    return logp, hidden


def compute(
    model: ScoredModel,
    texts: Texts,
    needs: Needs,
    items_of_worker: Sequence[Sequence[Item]],
    worker: int,
    *,
    size: int,
    max_length: int,
    device: torch.device,
) -> Reference:
    """Run the starting model once over each text that this worker will visit.

    `items_of_worker` holds every worker's items, because all workers must make equally many forward passes: one with
    fewer texts repeats its last.
    """
    logp, hidden = reference_needs(needs)
    kept = Reference()
    for each in {**logp, **hidden}:
        lists = [_distinct(each, items) for items in items_of_worker]
        rounds = max(-(-len(items) // size) for items in lists)
        mine = lists[worker]
        for turn in range(rounds):
            part = mine[turn * size : (turn + 1) * size] or mine[-1:]
            positions = hidden.get(each, Positions.ANSWER)
            batch = collate(texts, part, {each: {Stat.LOGP: positions}}, max_length).to(device)
            _keep(kept, model, each, batch, positions, with_hidden=each in hidden)
    return kept


@torch.no_grad()
def _keep(
    kept: Reference, model: ScoredModel, each: Pass, batch: Batch, positions: Positions, *, with_hidden: bool
) -> None:
    wanted_BT = batch.wanted_BT(each, positions)
    out = model(
        batch.input_ids_BT,
        batch.attention_BT,
        {each.value: (batch.rows[each], wanted_BT, (Stat.LOGP,))},
        {},
        keep_hidden=with_hidden,
    )
    logp_BT, answer_BT = out[f"{each}/{Stat.LOGP}"].cpu(), batch.answer_BT[batch.rows[each]].cpu()
    counts = wanted_BT.sum(-1).tolist()
    hidden = out[f"{each}/hidden"].cpu().split(counts) if with_hidden else [None] * len(counts)
    for row, (key, hidden_ND) in enumerate(zip(batch.keys[each], hidden, strict=True)):
        kept.logp[key] = logp_BT[row][answer_BT[row]].clone()
        if hidden_ND is not None:
            kept.hidden[key] = hidden_ND.clone()


def _distinct(each: Pass, items: Sequence[Item]) -> list[Item]:
    """One item for each different text of the pass."""
    return list({Texts.key(each, item): item for item in items}.values())
