"""Early drop: a forget row that the model no longer answers is not trained on any longer.

From iterative contrastive unlearning (arXiv:2407.20271), where it is part of one method: after each epoch the model
answers every row that is left, and a rule says which answers are far enough from the truth. Here the rule is any
callable, and any method's training can have one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from obliviate.data.rows import Row
from obliviate.data.schedule import Item
from obliviate.errors import UserError
from obliviate.methods import Pass
from obliviate.train.batch import Texts
from obliviate.train.job import DropRule
from obliviate.train.model import ScoredModel
from obliviate.train.said import greedy
from obliviate.train.together import together


@dataclass
class EarlyDrop:
    """Which forget rows are left, and how that changes. The schedule stays: a step makes do with what is left of it."""

    rule: DropRule
    rows: Sequence[Row]
    stop_ids: frozenset[int]  # any of them ends an answer
    dropped: set[int] = field(default_factory=set)

    def resume(self, log: Iterable[Mapping[str, Any]]) -> None:
        """Drop again what the run's log says was dropped."""
        for line in log:
            if "early_drop" in line:
                self.dropped |= set(line["early_drop"]["dropped"])

    def left(self, items: Sequence[Item], workers: int) -> list[Item]:
        """Every worker needs an item: where there are fewer, all are repeated alike, which changes no mean."""
        kept = [item for item in items if item.anchor not in self.dropped]
        return kept * -(-workers // len(kept)) if kept else []

    def measure(self, model: ScoredModel, texts: Texts, *, size: int, device: torch.device) -> dict[str, Any]:
        """What to log of it: the rows that are dropped from here on, and how many are left. All workers call it.

        Raises UserError, on all of them, where the first one's rule does: it may lack what the rule reads.
        """
        asked = [index for index in range(len(self.rows)) if index not in self.dropped]
        prompts = {index: texts[texts.key(Pass.FORGET, Item(index))].prompt_ids for index in asked}
        said = greedy(model, texts.encoder, prompts, self.rule.max_new_tokens, self.stop_ids, size=size, device=device)
        verdict: list[list[int]] = [[]]

        def ask() -> None:
            if dist.get_rank() == 0:
                forgotten = self.rule([self.rows[i] for i in asked], [said[i] for i in asked])
                verdict[0] = [i for i, gone in zip(asked, forgotten, strict=True) if gone]

        if cause := together(ask):
            raise UserError(f"early_drop: {cause}")
        dist.broadcast_object_list(verdict)
        self.dropped |= set(verdict[0])
        return {"dropped": verdict[0], "left": len(self.rows) - len(self.dropped)}
