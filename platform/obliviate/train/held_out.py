"""What is measured between steps on texts that no step trains on: how far the model has come from its start, what it
still knows of what it must forget, and what of the rest.

Forward passes and, where refusals are counted, greedy answers. The workers share the texts, and all of
them get the same figures: sums over rows, in the rows' order.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import exp, fsum
from statistics import fmean

import torch
import torch.distributed as dist
from torch import Tensor

from obliviate.data.key_facts import asked_for, key_spans, says
from obliviate.data.rows import Row
from obliviate.data.schedule import Item
from obliviate.data.text import TextEncoder
from obliviate.methods import Needs, Pass, Positions, Text
from obliviate.scoring import Stat
from obliviate.train.batch import Batch, Texts, collate
from obliviate.train.job import Refusals
from obliviate.train.model import DTYPES, ScoredModel
from obliviate.train.reference import compute
from obliviate.train.said import greedy
from obliviate.train.together import everyones, parts_of

TEXT = Text("held_out", "retain")  # with an output layer of its own to be compared with: no term has this text
DRIFT: Needs = {TEXT: {Stat.REFERENCE_KL: Positions.ANSWER}}


@dataclass(frozen=True)
class Reading:
    """How texts go through the model."""

    size: int  # texts of a forward pass
    max_length: int
    dtype: str  # that the model computes in
    device: torch.device

    def batch(self, texts: Texts, items: Sequence[Item], needs: Needs) -> Batch:
        return collate(texts, items, needs, self.max_length).to(self.device)


class Divergence:
    """KL(P_start || P), nats: the mean over the tokens of all answers, of which a plain text is one.

    Made of the starting model, whose final hidden states and output layer stand for its distributions.
    """

    def __init__(self, rows: Sequence[Row], encoder: TextEncoder, model: ScoredModel, reading: Reading) -> None:
        self._rows, self._reading = len(rows), reading
        self._texts = Texts(encoder, (), rows, ())
        world, items = dist.get_world_size(), [Item(retain=index) for index in range(len(rows))]
        self._texts.encode([TEXT], items)
        shares = [items[rank::world] or items[-1:] for rank in range(world)]
        self._start = compute(
            model, self._texts, DRIFT, shares, dist.get_rank(), size=reading.size, max_length=reading.max_length,
            device=reading.device,
        )  # fmt: skip
        model.reference_heads = {**model.reference_heads, str(TEXT): model.copy_head(DTYPES[reading.dtype])}

    @torch.no_grad()
    def __call__(self, model: ScoredModel) -> float:
        found: dict[int, tuple[float, int]] = {}
        for part in parts_of(self._rows, self._reading.size):
            batch = self._reading.batch(self._texts, [Item(retain=index) for index in part], DRIFT)
            wanted_BT = batch.wanted_BT(TEXT, Positions.ANSWER)
            wanted = {str(TEXT): (batch.rows[TEXT], wanted_BT, (Stat.REFERENCE_KL,))}
            start = {str(TEXT): self._start.hidden_of(TEXT, batch)}
            kl_BT = model(batch.input_ids_BT, batch.attention_BT, wanted, start)[f"{TEXT}/{Stat.REFERENCE_KL}"]
            sums = zip(kl_BT.sum(-1).tolist(), wanted_BT.sum(-1).tolist(), strict=True)
            found |= zip(part, sums, strict=True)
        rows = everyones(found).values()
        return fsum(kl for kl, _ in rows) / sum(tokens for _, tokens in rows)


class Known:
    """Probability per token, exp(mean log-probability), averaged over rows: of the words that carry the forget rows'
    facts (of the whole answer where they cannot be told), and of the retain rows' answers."""

    def __init__(self, forget: Sequence[Row], retain: Sequence[Row], encoder: TextEncoder, reading: Reading) -> None:
        self._texts, self._reading = Texts(encoder, forget, retain, ()), reading
        self._places = [encoder.places(encoder.encode_row(row), row.answer, key_spans(row)) for row in forget]
        self._texts.encode([Pass.RETAIN], [Item(retain=index) for index in range(len(retain))])
        self._retain = len(retain)

    @torch.no_grad()
    def __call__(self, model: ScoredModel) -> tuple[float, float]:
        """Of what is to be forgotten, and of what is to be kept."""
        forget = self._probabilities(model, Pass.FORGET, [Item(index) for index in range(len(self._places))])
        retain = self._probabilities(model, Pass.RETAIN, [Item(retain=index) for index in range(self._retain)])
        return fmean(forget), fmean(retain)

    def _probabilities(self, model: ScoredModel, each: Text, items: Sequence[Item]) -> list[float]:
        found: dict[int, float] = {}
        for part in parts_of(len(items), self._reading.size):
            batch = self._reading.batch(
                self._texts, [items[index] for index in part], {each: {Stat.LOGP: Positions.ANSWER}}
            )
            answer_BT = batch.wanted_BT(each, Positions.ANSWER)
            wanted = {str(each): (batch.rows[each], answer_BT, (Stat.LOGP,))}
            logp_BT = model(batch.input_ids_BT, batch.attention_BT, wanted, {})[f"{each}/{Stat.LOGP}"]
            for index, logp_T, answer_T in zip(part, logp_BT.cpu(), answer_BT.cpu(), strict=True):
                found[index] = self._probability(each, index, logp_T[answer_T])
        return list(everyones(found).values())

    def _probability(self, each: Text, index: int, logp_T: Tensor) -> float:
        places = list(self._places[index]) if each is Pass.FORGET else []
        return exp((logp_T[places] if places else logp_T).double().mean().item())


class Answers:
    """Greedy answers: the share of facts that they tell, and of the rows to keep those that they refuse.

    A fact is told where the answer says any of its key words that its question does not; rows without key words tell
    none. Made of the starting model: what it refuses itself is not counted.
    """

    def __init__(
        self,
        forget: Sequence[Row],
        retain: Sequence[Row],
        refusals: Refusals,
        encoder: TextEncoder,
        model: ScoredModel,
        stop_ids: Collection[int],
        reading: Reading,
    ) -> None:
        self._refusals, self._encoder, self._stop_ids, self._reading = refusals, encoder, stop_ids, reading
        self._facts = [(row, keys) for row in forget if (keys := asked_for(row))]
        self._kept = list(retain)
        refused = self._refused(model)
        self._kept = [row for row, gone in zip(retain, refused, strict=True) if not gone]

    def __call__(self, model: ScoredModel) -> tuple[float, float]:
        """Facts told, rows refused."""
        said = self._said(model, [row for row, _ in self._facts])
        told = [any(says(text, [key]) for key in keys) for text, (_, keys) in zip(said, self._facts, strict=True)]
        refused = self._refused(model)
        return fmean(told), fmean(refused or [False])

    def _refused(self, model: ScoredModel) -> list[bool]:
        return [self._refusals.refuses(text) for text in self._said(model, self._kept)]

    def _said(self, model: ScoredModel, rows: Sequence[Row]) -> list[str]:
        prompts = {index: self._encoder.prompt(*row.asked) for index, row in enumerate(rows)}
        reading = self._reading
        found = greedy(
            model, self._encoder, prompts, self._refusals.max_new_tokens, self._stop_ids, size=reading.size,
            device=reading.device,
        )  # fmt: skip
        return [found[index] for index in range(len(rows))]
