"""Early drop: a forget row that the model no longer answers is not trained on any longer.

From iterative contrastive unlearning (arXiv:2407.20271), where it is part of one method: after each epoch the model
answers every row that is left, and a rule says which answers are far enough from the truth. Here the rule is any
callable, and any method's training can have one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from obliviate import storage
from obliviate.data.rows import Row
from obliviate.data.schedule import Item
from obliviate.data.text import TextEncoder
from obliviate.errors import UserError
from obliviate.methods import Pass
from obliviate.train.batch import Texts
from obliviate.train.job import DropRule
from obliviate.train.log import STEPS_FILE, read_steps
from obliviate.train.model import ScoredModel
from obliviate.train.together import together


@dataclass
class EarlyDrop:
    """Which forget rows are left, and how that changes. The schedule stays: a step makes do with what is left of it."""

    rule: DropRule
    rows: Sequence[Row]
    stop_ids: frozenset[int]  # any of them ends an answer
    dropped: set[int] = field(default_factory=set)

    def resume(self, directory: Path, steps: int) -> None:
        """Drop again what the run's log says was dropped in the first `steps` steps. All workers call it together.

        Raises UserError, on all of them, where the log cannot be fetched.
        """
        if cause := together(lambda: storage.fetch(directory / STEPS_FILE)):
            raise UserError(f"{directory}: the log cannot be fetched ({cause}); run the same command again")
        for line in read_steps(directory):
            if line["step"] <= steps and "early_drop" in line:
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
        said = _said(model, texts, asked, self.rule.max_new_tokens, self.stop_ids, size=size, device=device)
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


def _said(
    model: ScoredModel,
    texts: Texts,
    asked: Sequence[int],
    max_new_tokens: int,
    stop_ids: Collection[int],
    *,
    size: int,
    device: torch.device,
) -> dict[int, str]:
    """Forget row -> the model's greedy answer. The workers share the rows, and each generates equally often: one with
    fewer rows asks its last one again."""
    if not asked:
        return {}
    rank, world = dist.get_rank(), dist.get_world_size()
    mine = list(asked[rank::world]) or [asked[-1]]
    model.eval()
    size = 1 if model.asked_alone else size
    found: dict[int, str] = {}
    for turn in range(-(-len(asked) // (world * size))):
        part = mine[turn * size : (turn + 1) * size] or mine[-1:]
        prompts = [texts[texts.key(Pass.FORGET, Item(index))].prompt_ids for index in part]
        found |= zip(part, _generate(model, texts, prompts, max_new_tokens, stop_ids, device), strict=True)
    model.train()
    everything: list[dict[int, str]] = [{}] * world
    dist.all_gather_object(everything, found)
    return {index: text for each in everything for index, text in each.items()}


def _generate(
    model: ScoredModel,
    texts: Texts,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_ids: Collection[int],
    device: torch.device,
) -> list[str]:
    length = max(map(len, prompts))
    ids_BT = torch.full((len(prompts), length), texts.padding_id, device=device)
    attention_BT = torch.zeros_like(ids_BT)
    for row, prompt in enumerate(prompts):  # the answers begin in one column
        ids_BT[row, length - len(prompt) :] = torch.tensor(prompt, device=device)
        attention_BT[row, length - len(prompt) :] = 1
    said_BT = model.say(ids_BT, attention_BT, max_new_tokens, stop_ids)[:, length:]
    return [_answer(texts.encoder, ids, stop_ids) for ids in said_BT.tolist()]


def _answer(encoder: TextEncoder, ids: Sequence[int], stop_ids: Collection[int]) -> str:
    """Without its end and thinking; empty where that did not end."""
    ended = next((place for place, each in enumerate(ids) if each in stop_ids), len(ids))
    text: str = encoder.tokenizer.decode(ids[:ended], skip_special_tokens=True)
    return (encoder.hear(text, ids[:ended]).answer or "").strip()
