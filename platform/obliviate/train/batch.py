"""From the items of a step to one padded batch that holds the texts of every pass.

Shapes: B texts of all passes together, T tokens of the longest. All masks are made from lengths, never from token ids:
a real end-of-turn token may have the padding's id.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from obliviate.data.rows import Row, Said
from obliviate.data.schedule import Item, micro_batch_count
from obliviate.data.text import Encoded, TextEncoder
from obliviate.methods import Needs, Positions, Text
from obliviate.methods.texts import Sets
from obliviate.models import encoder_of
from obliviate.schema import ModelSpec
from obliviate.scoring import Activation, AnyStat, TokenScores

if TYPE_CHECKING:
    from obliviate.train.job import Job

KEPT = 100_000  # texts: some hundred megabytes of tokens
TextKey = tuple[str, Said]  # a text's identity: its kind and all that it says


class Texts:
    """The encoded texts of items; the last KEPT of them are kept.

    Fine-tuning anchors on the retain rows: its items' `retain` index is the anchor.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        forget: Sequence[Row],
        retain: Sequence[Row],
        refusals: Sequence[str],
        world: Sequence[Row] = (),
    ) -> None:
        self._encoder, self._sets = encoder, Sets(forget, retain, refusals, world)
        self._encoded: dict[TextKey, Encoded] = {}

    @property
    def encoder(self) -> TextEncoder:
        return self._encoder

    @property
    def padding_id(self) -> int:
        return self._encoder.end_of_turn_id

    def key(self, each: Text, item: Item) -> TextKey:
        """Raises UserError where a row has nothing to make the text of."""
        return each.name, each.said(self._sets, item)

    def __getitem__(self, key: TextKey) -> Encoded:
        if key not in self._encoded:
            if len(self._encoded) >= KEPT:
                del self._encoded[next(iter(self._encoded))]  # the first that came
            self._encoded[key] = self._encoder.encode(*key[1])
        return self._encoded[key]

    def encode(self, passes: Sequence[Text], items: Iterable[Item]) -> None:
        """All of them now, on every worker alike: one that met a text that cannot be encoded in its own share alone
        would leave the others waiting."""
        for item in items:
            for each in passes:
                self[self.key(each, item)]


@dataclass(frozen=True)
class Batch:
    """Texts of every pass, padded on the right to one length; `rows` says which texts are whose."""

    input_ids_BT: Tensor
    attention_BT: Tensor  # int64: 1 on real tokens
    answer_BT: Tensor  # bool
    sequence_BT: Tensor  # bool: every token that has a predecessor; with padding where asked for
    rows: Mapping[Text, slice]
    keys: Mapping[Text, tuple[TextKey, ...]]

    @property
    def tokens(self) -> int:
        """Real tokens, padding left out."""
        return int(self.attention_BT.sum())

    def wanted_BT(self, each: Text, positions: Positions) -> Tensor:
        """Of the texts of a pass, or of the trained model's pass over the same texts."""
        mask_BT = self.answer_BT if positions is Positions.ANSWER else self.sequence_BT
        return mask_BT[self.rows[each.text]]

    def scores(self, each: Text, stats: Mapping[AnyStat, Tensor]) -> TokenScores:
        """What was found of the texts of a pass, with their masks."""
        rows = self.rows[each.text]
        return TokenScores(stats, self.answer_BT[rows], self.sequence_BT[rows])

    def blank(self, needs: Needs) -> dict[Text, TokenScores]:
        """Scores that are all 0, which say no more than where texts have tokens."""
        found: dict[Text, TokenScores] = {}
        for each, stats in needs.items():
            zeros_BT = torch.zeros_like(self.answer_BT[self.rows[each.text]], dtype=torch.float32)
            found[each] = self.scores(
                each, {stat: zeros_BT[..., None] if isinstance(stat, Activation) else zeros_BT for stat in stats}
            )
        return found

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cpu":
            return self
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in
                 ("input_ids_BT", "attention_BT", "answer_BT", "sequence_BT")}  # fmt: skip
        return replace(self, **moved)


def collate(texts: Texts, items: Sequence[Item], needs: Needs, max_length: int) -> Batch:
    """One batch of the texts that `needs`' passes over the trained model run on."""
    passes = [each for each in needs if not each.of_reference]
    keys = {each: tuple(texts.key(each, item) for item in items) for each in passes}
    padded = {each for each in passes if Positions.PADDED in needs[each].values()}
    encoded = [texts[key] for each in passes for key in keys[each]]
    length = max_length if padded else max(len(text.input_ids) for text in encoded)
    input_ids_BT = np.full((len(encoded), length), texts.padding_id, dtype=np.int64)
    attention_BT = np.zeros_like(input_ids_BT)
    answer_BT = np.zeros_like(input_ids_BT, dtype=bool)
    for row, text in enumerate(encoded):
        tokens = len(text.input_ids)
        input_ids_BT[row, :tokens] = text.input_ids
        attention_BT[row, :tokens] = 1
        answer_BT[row, max(1, text.prompt_length) : tokens] = True
    sequence_BT = attention_BT.astype(bool)
    rows = {each: slice(i * len(items), (i + 1) * len(items)) for i, each in enumerate(passes)}
    for each in padded:
        sequence_BT[rows[each]] = True
    sequence_BT[:, 0] = False
    return Batch(
        torch.from_numpy(input_ids_BT),
        torch.from_numpy(attention_BT),
        torch.from_numpy(answer_BT),
        torch.from_numpy(sequence_BT),
        rows,
        keys,
    )


def micro_batches(texts: Texts, items: Sequence[Item], anchor: Text, size: int, workers: int) -> list[list[Item]]:
    """A global batch, of at least as many items as there are workers, cut into equally many micro-batches for each of
    them, texts of similar length together.

    Micro-batch j goes to worker j modulo `workers`. None is empty, and none is larger than `size`, except that some
    have two items where `size` is 1 and the workers don't divide the batch.
    """
    ordered = sorted(items, key=lambda item: len(texts[texts.key(anchor, item)].input_ids))
    parts = np.array_split(np.arange(len(ordered)), micro_batch_count(len(items), size, workers))
    return [[ordered[i] for i in part] for part in parts]


def micro_batch_seed(seed: Sequence[int], place: int) -> int:
    """Of dropout, in the micro-batch at this place among all workers': a resumed run repeats it, and so do workers of
    another number that cut the step into the same batches."""
    return int(np.random.SeedSequence([*seed, place]).generate_state(1)[0])


@lru_cache(maxsize=1)
def _texts(
    model: ModelSpec,
    forget: Sequence[Row],
    retain: Sequence[Row],
    refusals: tuple[str, ...],
    world: Sequence[Row],
) -> Texts:
    """Encoded once by a process that trains on the same rows again, as one trial of a sweep after the other."""
    return Texts(encoder_of(model), forget, retain, refusals, world)


def texts_of(job: "Job") -> Texts:
    spec = job.model.model_copy(update={"lora": None})
    return _texts(spec, job.forget, job.retain, job.refusals, job.world)
