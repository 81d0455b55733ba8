"""Tamper-resistant safeguards (TAR; Tamirisa et al. 2025, arXiv:2408.00761, section 4 and algorithm 1): what is
forgotten shall stay so while somebody fine-tunes the model on the forget set.

Before an update an attacker sets out from the weights theta: AdamW, a state of its own, down the surprise at the
answers of forget rows that are not the update's own. At the points theta_k that it comes by, each so many steps after
the last, the forget objective's gradient is taken on the update's own rows; their mean sum_k w_k grad L(theta_k),
w_k ~ exp(growth k), stands for the gradient of sum_k w_k L(theta_k) in theta (first order: theta_k moves as theta
does). The regularizers' gradients are those at theta, where the weights come back to. L is whatever the run's forget
objective is, the paper's -H(P), and lambda_TR its weight.

The published code draws the attacker's rate anew for each update, as is done here; it keeps a fifth of the forget texts
for L alone, where here every row has its turn; a third of its attackers train on the retain set first; its w_k sum to
4.4 instead of 1 (64 steps, every 4th, growth 1/16), where the paper has 1/K.
"""

from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from obliviate.data.schedule import Item
from obliviate.methods import Pass
from obliviate.schema import OptimSpec, TamperingSpec
from obliviate.train.batch import Texts
from obliviate.train.job import Job
from obliviate.train.model import ScoredModel
from obliviate.train.optimizer import adamw
from obliviate.train.shards import restored
from obliviate.train.surprise import add_gradients


class Tampering:
    """Every worker makes it, and calls it, alike."""

    def __init__(self, job: Job, model: ScoredModel, texts: Texts, spec: TamperingSpec) -> None:
        self._job, self._model, self._texts, self._spec = job, model, texts, spec
        self._schedule = job.schedule
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        texts.encode([Pass.FORGET], map(Item, range(len(job.forget))))
        points = range(spec.every, spec.steps + 1, spec.every)
        counted = np.exp([spec.growth * (point - spec.steps) for point in points])
        self._shares = dict(zip(points, (counted / counted.sum()).tolist(), strict=True))

    def along(
        self, step: int, gradients: Callable[[], tuple[dict[int, float], float]]
    ) -> tuple[dict[int, float], float]:
        """Leave the mean, along an attack, of the gradients that `gradients` leaves; the mean of the terms that it
        tells, and the tokens that both saw. No parameter has a gradient before."""
        terms, tokens = dict[int, float](), 0.0
        mean: list[Tensor | None] = [None] * len(self._trained)
        with restored(self._trained):
            for taken, seen in enumerate(self._attack(step), 1):
                tokens += seen
                if (share := self._shares.get(taken)) is None:
                    continue
                found, seen = gradients()
                tokens += seen
                terms = {term: terms.get(term, 0.0) + share * value for term, value in found.items()}
                mean = [_added(held, each.grad, share) for held, each in zip(mean, self._trained, strict=True)]
                self._model.zero_grad()
        for parameter, gradient in zip(self._trained, mean, strict=True):
            parameter.grad = gradient
        return terms, tokens

    def _attack(self, step: int) -> Iterator[float]:
        """Take its steps, one after another; the tokens that each saw."""
        spec, draws = self._spec, np.random.default_rng([self._job.seed, step])
        optimizer = adamw(self._model, OptimSpec(learning_rate=float(draws.choice(spec.learning_rates))))
        own = {item.anchor for item in self._schedule.step(step)}
        others = draws.permutation([row for row in range(len(self._job.forget)) if row not in own])
        assert len(others), "a batch of all forget rows leaves none to attack with"
        for taken in range(spec.steps):
            places = range(taken * spec.batch_size, (taken + 1) * spec.batch_size)
            items = [Item(int(others[place % len(others)])) for place in places]
            tokens = add_gradients(self._job, self._model, self._texts, items, (self._job.seed, step, taken))
            optimizer.step()
            self._model.zero_grad()
            yield tokens


def _added(held: Tensor | None, gradient: Tensor | None, share: float) -> Tensor | None:
    if gradient is None:
        return held
    return gradient.mul_(share) if held is None else held.add_(gradient, alpha=share)
