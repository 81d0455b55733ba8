"""How far unlearning has come, cheaply: what a sweep's scheduler decides on before a trial is measured for good.

Teacher-forced probability of the true answers, exp(mean log-probability of the answer's tokens), averaged over a slice
of the forget rows and a slice of the retain rows: a few forward passes, no generation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import TYPE_CHECKING

from obliviate.data.schedule import Item
from obliviate.errors import DivergedError
from obliviate.methods import Pass, Positions, Text
from obliviate.scoring import Stat

if TYPE_CHECKING:
    import torch

    from obliviate.train.batch import Texts
    from obliviate.train.model import ScoredModel


@dataclass(frozen=True)
class Signal:
    """Measured `points` times in equal shares of the training, the last time after its last step."""

    points: int
    rows: int  # of each set, spread evenly over it

    def point(self, step: int, steps: int) -> int | None:
        """Which of the points 1 ... `points` falls on the end of step 1, 2, ... `steps`; the later where several do."""
        now, before = (done * self.points // steps for done in (step, step - 1))
        return now if now > before else None

    def slice(self, count: int) -> list[int]:
        """The rows it looks at, of `count`."""
        return spread(count, self.rows)


def spread(count: int, rows: int) -> list[int]:
    """As many of that many rows, evenly; all where there are fewer."""
    looked_at = min(rows, count)  # 0 where there are none
    return [i * count // looked_at for i in range(looked_at)]


@dataclass(frozen=True)
class Slices:
    """What the signal is measured on: row indices of each set; without a retain set, that of the forget set alone."""

    forget: Sequence[int]
    retain: Sequence[int]


def measure(
    model: "ScoredModel", texts: "Texts", slices: Slices, *, size: int, max_length: int, device: "torch.device"
) -> dict[str, float | None]:
    """Mean probability of the true answers, "forget" and "retain"; None where there are no rows.

    Every worker measures all rows: with sharded weights all must make the same forward passes. Raises DivergedError
    where the model has collapsed and a probability is not a number.
    """
    model.eval()
    found = {
        Pass.FORGET: [Item(index) for index in slices.forget],
        Pass.RETAIN: [Item(retain=index) for index in slices.retain],
    }
    signal: dict[str, float | None] = {}
    for each, items in found.items():
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        probabilities = [p for part in parts for p in _probabilities(model, texts, each, part, max_length, device)]
        signal[str(each)] = fmean(probabilities) if probabilities else None
        if not all(map(isfinite, probabilities)):
            raise DivergedError(
                f"the model has collapsed: the probability of a {each} answer is not a number. Lower "
                "optim.learning_rate or the forget objective's weight"
            )
    model.train()
    return signal


def _probabilities(
    model: "ScoredModel", texts: "Texts", each: Text, items: Sequence[Item], max_length: int, device: "torch.device"
) -> list[float]:
    import torch

    from obliviate.train.batch import collate

    batch = collate(texts, items, {each: {Stat.LOGP: Positions.ANSWER}}, max_length).to(device)
    wanted = {str(each): (batch.rows[each], batch.wanted_BT(each, Positions.ANSWER), (Stat.LOGP,))}
    with torch.no_grad():
        out = model(batch.input_ids_BT, batch.attention_BT, wanted, {})
    scores = batch.scores(each, {Stat.LOGP: out[f"{each}/{Stat.LOGP}"]})
    probabilities: list[float] = (scores.logp_B / scores.tokens_B.clamp(min=1)).exp().tolist()
    return probabilities
