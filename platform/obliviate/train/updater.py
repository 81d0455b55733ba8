"""One update of the weights: the gradients of its phases, what is done to them, and the optimiser's step."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from math import isfinite
from typing import NoReturn

import torch
from torch.optim import Optimizer

from obliviate.methods import Ascent, Curvature, Redirection, Selection
from obliviate.train.adversary import adversary
from obliviate.train.batch import Texts
from obliviate.train.curvature import Curved
from obliviate.train.job import Job
from obliviate.train.model import ScoredModel, reshard
from obliviate.train.optimizer import adamw, clip
from obliviate.train.phases import Phase, Update
from obliviate.train.projection import retain_projection
from obliviate.train.quantisation import Quantisation
from obliviate.train.rectification import Rectification
from obliviate.train.redirection import Redirected
from obliviate.train.repselect import Selected
from obliviate.train.shared_base import SharedBase
from obliviate.train.sharpness import perturbed
from obliviate.train.stability import Stability
from obliviate.train.tampering import Tampering

# Of a step and a phase: add its gradients to what is there; each term's mean over the global batch, and the tokens.
Gradients = Callable[[int, Phase], tuple[dict[int, float], float]]
Stop = Callable[[int, Mapping[int, float], float], NoReturn]  # for a gradient whose norm is not finite


class Updater:
    """Made of the starting model, before a checkpoint is loaded. Every worker calls it alike."""

    def __init__(
        self, job: Job, model: ScoredModel, texts: Texts, updates: Sequence[Update], gradients: Gradients, stop: Stop
    ) -> None:
        self.job, self.model = job, model
        self._gradients, self._stop = gradients, stop
        states = 1 + max(update.optimizer for update in updates) if job.ascent is None else 0
        self.optimizers = _optimizers(model, job, states)
        spec = job.rectification
        self.rectification = None if spec is None else Rectification(model, self.optimizers[0], spec.share)
        self.stability = None if job.stability is None else Stability(model, job.stability)
        self.tampering = None if job.tampering is None else Tampering(job, model, texts, job.tampering)
        self.quantisation = None if job.quantisation is None else Quantisation(
            model, job.quantisation.to, merged=job.model.lora is not None and job.model.lora.merge
        )  # fmt: skip
        self.projection = None if job.projection is None else retain_projection(
            model, texts, len(job.retain), job.projection, seed=job.seed, device=next(model.parameters()).device,
            size=job.optim.micro_batch_size, max_length=job.model.max_length,
        )  # fmt: skip
        self.ascent = None if job.ascent is None else self._ascent(job.ascent, texts, updates[0])

    def make(self, step: int, update: Update, rate: float) -> tuple[dict[int, float], float, float]:
        """The mean of each of its terms (by index) over the global batch, the real tokens that were seen, and the
        gradient's norm before clipping."""
        if self.ascent is not None:
            return self._rise(self.ascent, step, update, rate)
        parts, tokens = self._found(step, update)
        projection = self.projection if update.of_forget else None
        if projection is not None:
            projection.project_gradients(self.model)
        norm = clip(self.model.parameters(), self.job.optim.max_grad_norm)
        if not isfinite(norm):  # a step would make weights of it that no later check could undo
            self._stop(step, parts, norm)
        optimizer = self.optimizers[update.optimizer]
        if update.of_forget and self.job.forget_learning_rate is not None:
            rate *= self.job.forget_learning_rate / self.job.optim.learning_rate
        for group in optimizer.param_groups:
            group["lr"] = rate
        with nullcontext() if projection is None else projection.projecting(self.model):
            optimizer.step()
        self.model.zero_grad()
        return parts, tokens, norm

    def _seen(self, step: int, phase: Phase) -> tuple[dict[int, float], float]:
        """The phase's gradients, of the weights as they are to be looked at."""
        with self.quantisation.rounded() if phase.of_forget and self.quantisation is not None else nullcontext():
            return self._gradients(step, phase)

    def _looked_at(self, step: int, phase: Phase) -> tuple[dict[int, float], float]:
        """The phase's gradients, of the weights as they are or, of the forget objective, where it is worst nearby."""
        found, tokens = self._seen(step, phase)
        if phase.of_forget and self.job.sharpness is not None:
            with perturbed(self.model, self.job.sharpness.rho):
                tokens += self._seen(step, phase)[1]
        return found, tokens

    def _resisted(self, step: int, phase: Phase) -> tuple[dict[int, float], float]:
        """The same; of the forget objective the mean along an attack."""
        gradients = partial(self._looked_at, step, phase)
        return self.tampering.along(step, gradients) if phase.of_forget and self.tampering is not None else gradients()

    def _ascent(self, ascent: Ascent, texts: Texts, update: Update) -> Selected | Curved | Redirected:
        if isinstance(ascent, Curvature):
            return Curved(self.job, self.model, texts, ascent)
        if isinstance(ascent, Redirection):
            return Redirected(self.job, self.model, texts, ascent)
        assert isinstance(ascent, Selection)

        def find() -> None:
            with adversary(self.job, self.model, texts, ascent.adversary):
                self._found(0, update)

        return Selected(self.model, ascent.rank, find)

    def _rise(
        self, ascent: Selected | Curved | Redirected, step: int, update: Update, length: float
    ) -> tuple[dict[int, float], float, float]:
        with nullcontext() if ascent.again else torch.no_grad():
            parts, tokens = self._found(step, update)
        reshard(self.model)
        return parts, tokens, ascent.step(length)

    def _found(self, step: int, update: Update) -> tuple[dict[int, float], float]:
        """Leave the update's gradients on the parameters; its terms' means and the tokens."""
        parts: dict[int, float] = {}
        tokens = 0.0
        for phase in update.phases:
            found, seen = self._resisted(step, phase)
            parts |= found
            if phase.of_forget and self.stability is not None:
                seen += self.stability.look_around(partial(self._resisted, step, phase))
            if phase.of_forget and self.rectification is not None:
                self.rectification.hold()
            tokens += seen
        if self.rectification is not None:
            self.rectification.rectify()
        if self.stability is not None:
            self.stability.join()
        return parts, tokens


def _optimizers(model: ScoredModel, job: Job, states: int) -> list[Optimizer]:
    if job.updates != "dual_plus":
        return [adamw(model, job.optim) for _ in range(states)]
    first = SharedBase(model, job.optim)
    return [first, *(SharedBase(model, job.optim, first) for _ in range(states - 1))]
