"""The training loop: plain torch, no Ray. Workers, sweeps and unit tests call `train`.

Each optimiser step sees one global batch of the schedule, and makes one update of the weights or several.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from math import isfinite
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import HashStore

from obliviate.data.schedule import Item
from obliviate.errors import UserError
from obliviate.methods import ForgetObjective, Pass, compares, union_of_needs
from obliviate.models import stop_ids
from obliviate.train import checkpoint, export, stop
from obliviate.train.batch import texts_of
from obliviate.train.components import leading_components
from obliviate.train.constants import reference_of
from obliviate.train.early_drop import EarlyDrop
from obliviate.train.gradients import PhaseGradients
from obliviate.train.heap import kept_freed_memory
from obliviate.train.initial import distort, shrink
from obliviate.train.job import CHECKPOINTS, Job, Reporter
from obliviate.train.log import StepLog, term_names
from obliviate.train.memory import peak_memory_bytes
from obliviate.train.model import ScoredModel, build, check_layers, checked, reshard
from obliviate.train.phases import APART, Phase, plan_updates
from obliviate.train.selection import Selection
from obliviate.train.signal import Slices, measure
from obliviate.train.steered import check_alike, further_needs
from obliviate.train.updater import Updater

READ_FIRST = 2_000  # items whose texts are made into tokens, and looked at, before the first step; the others when met


@contextmanager
def single_process() -> Iterator[None]:
    """A process group of one, for running the loop without Ray."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def train(job: Job, report: Reporter | None = None, *, device: torch.device | None = None) -> ScoredModel:
    """Train from the last checkpoint, or from the start, to the end. Needs a process group.

    `report` is not Ray Train's: that one waits for the controller's next poll, seconds at every step.

    Raises DivergedError where a loss or its gradient stops being finite, UserError where a checkpoint can't be written;
    the last good checkpoint stays: one that a step with finite losses has followed.
    """
    device = device or torch.device("cpu")
    last = checkpoint.latest_sound(job.directory / CHECKPOINTS)
    if last is not None and checkpoint.steps_of(last) == job.schedule.steps:
        model = _built(job, device)
        checkpoint.load(last, model, ())
        checkpoint.logged(job.directory, job.schedule.steps)
        return model
    trainer = _Trainer(job, device)
    start = trainer.resume()
    # Not before: a model that is read, or computes references, leaves gaps that no step would fill.
    with kept_freed_memory() if device.type == "cpu" else nullcontext():
        _take_steps(trainer, start, report)
    return trainer.model


def _built(job: Job, device: torch.device) -> ScoredModel:
    model = build(
        job.model,
        seed=job.seed,
        activation_checkpointing=job.optim.activation_checkpointing,
        device=device,
        trainable=next((term.trainable for term in job.terms if isinstance(term, ForgetObjective)), None),
    )
    return checked(model)


def _take_steps(trainer: "_Trainer", start: int, report: Reporter | None) -> None:
    job = trainer.job
    log = StepLog(job.directory, start) if dist.get_rank() == 0 else None
    due = checkpoint.Cadence(job.optim.checkpoint_every_steps)
    trainer.watch(start)
    for step in range(start, trainer.schedule.steps):
        if trainer.stops:
            trainer.watch(step + 1)  # nothing moves any longer: that is how the model would be
            continue
        if not trainer.items(step):
            continue  # nothing of this step's rows is left to forget
        metrics = trainer.step(step) | trainer.between(step + 1)
        checkpoint.prune(trainer.checkpoints, job.optim.keep_checkpoints)
        if log is not None:
            log.write(metrics)
        if report is not None:
            report(metrics)
        trainer.watch(step + 1)
        last = (step + 1 == trainer.schedule.steps or trainer.stops) and job.watch is None
        if due(step + 1, last=last):
            with due.saving():
                if log is not None:
                    log.publish()
                trainer.save(step + 1, last=last)
    trainer.choose()
    if log is not None:
        log.close()


class _Trainer:
    def __init__(self, job: Job, device: torch.device) -> None:
        self.job, self.device = job, device
        self.checkpoints = job.directory / CHECKPOINTS
        self.world = dist.get_world_size()
        self.schedule = job.schedule
        if self.schedule.optim.batch_size < self.world:
            raise UserError(
                f"optim.batch_size: {self.schedule.optim.batch_size} is less than cluster.workers {self.world}; "
                "every worker needs an item of each batch"
            )
        self.texts = texts_of(job)
        self.drop = (
            None
            if job.drop is None
            else EarlyDrop(job.drop, job.forget, stop_ids(job.model, self.texts.encoder.tokenizer))
        )
        self.settled = False  # nothing is left to forget
        self.terms = tuple(term.seeded(job.seed) for term in job.terms)
        self.names = term_names([term.type for term in self.terms])
        self.needs = union_of_needs(self.terms)
        every = (job.anchor, *(each.text for each in (*self.needs, *further_needs(self.needs))))
        self.passes = list(dict.fromkeys(every))
        self.read = 0  # steps whose texts are known to be fit
        while self.read < self.schedule.steps and self.read * self.schedule.optim.batch_size < READ_FIRST:
            self._read(self.read)
        apart = any(getattr(job, key) is not None for key in APART)
        self.updates = plan_updates(self.terms, self.needs, job.updates, forget_apart=apart)
        self.weights = [term.weight for term in self.terms]  # of the next step: a dual variable among them moves
        torch.manual_seed(job.seed)
        self.model = _built(job, device)
        export.check(self.model, job.model)  # what an export needs is there, or nothing is trained
        self.gradients = PhaseGradients(job, self.model, self.texts, self.terms)
        check_layers(self.terms, self.model, job.latent)
        reshard(self.model)  # that was a forward pass, and optimisers hold shards
        # From the starting model, before any checkpoint is loaded: a resumed run updates and measures as before. Its
        # forward passes, and those that follow, may leave gathered parameters behind.
        self.updater = Updater(job, self.model, self.texts, self.updates, self._gradients, self._not_finite)
        self.model.components = leading_components(
            self.model, self.texts, len(job.forget), self.needs.get(Pass.FORGET, {}), device=device,
            size=job.optim.micro_batch_size, max_length=job.model.max_length,
        )  # fmt: skip
        if compares(self.needs):  # for every text that this worker will visit, before any step or checkpoint
            visited = self._visited()
            self.gradients.reference = reference_of(job, self.model, self.texts, self.needs, visited, device)
        selects = job.budget is not None or job.validation is not None
        self.selection = Selection(job, self.texts.encoder, self.model, device) if selects else None
        if job.initial_noise:
            distort(self.model, job.initial_noise, job.seed)
        if job.undo is not None:
            shrink(self.model, job.undo.share, job.undo.noise, job.seed)

    def resume(self) -> int:
        """Steps already done."""
        path = checkpoint.latest(self.checkpoints)
        if path is None:
            return 0
        step, self.weights = checkpoint.load(path, self.model, self.updater.optimizers, self._chosen)
        log = checkpoint.logged(self.job.directory, step)
        for each in (self.drop, self.selection):
            if each is not None:
                each.resume(log)
        self.settled = stop.settled(log)
        return step

    def save(self, step: int, *, last: bool) -> None:
        """After the last step of all, which may come early, the model that the training ends with, alone."""
        if last:
            self.choose()
            checkpoint.save(self.checkpoints, self.schedule.steps, self.weights, self.model, ())
        else:
            checkpoint.save(self.checkpoints, step, self.weights, self.model, self.updater.optimizers, self._chosen)

    def choose(self) -> None:
        """Of the weights that training went through, take those that it ends with."""
        if self.selection is not None:
            self.selection.choose()

    @property
    def stops(self) -> bool:
        return self.settled or (self.selection is not None and self.selection.stops)

    @property
    def _chosen(self) -> dict[str, Tensor] | None:
        return None if self.selection is None else self.selection.weights

    def step(self, step: int) -> dict[str, Any]:
        """The updates of one step over the global batch; what to log of it."""
        began_s = time.perf_counter()
        rate = self.schedule.learning_rate(step)
        weights = self._weights(step)
        parts = [0.0] * len(self.terms)
        tokens = grad_norm = 0.0
        for update in self.updates:
            found, seen, norm = self.updater.make(step, update, rate)
            for index, part in found.items():
                parts[index] = part
            tokens, grad_norm = tokens + seen, max(grad_norm, norm)
        elapsed_s = time.perf_counter() - began_s
        metrics = {
            "step": step + 1,
            "steps": self.schedule.steps,
            "epoch": self._epoch(step + 1),
            "loss": sum(weight * part for weight, part in zip(weights, parts, strict=True)),
            "parts": dict(zip(self.names, parts, strict=True)),
            "weights": dict(zip(self.names, weights, strict=True)),
            "learning_rate": rate,
            "grad_norm": grad_norm,
            "tokens": int(tokens),
            "tokens_per_s": tokens / elapsed_s,
            "peak_memory_bytes": peak_memory_bytes(self.device),
        }
        # From sums over all workers: the same on each of them.
        self.weights = [
            term.next_weight(weight, part, step / self.schedule.steps)
            for term, weight, part in zip(self.terms, self.weights, parts, strict=True)
        ]
        return metrics

    def _weights(self, step: int) -> list[float]:
        """What each term's loss is multiplied by in a step: its weight, where its schedule stands."""
        done = step / self.schedule.steps
        return [weight * term.scheduled(done) for weight, term in zip(self.weights, self.terms, strict=True)]

    def _gradients(self, step: int, phase: Phase) -> tuple[dict[int, float], float]:
        """Add those of the phase's terms to what is there; each term's mean over the global batch, and the tokens."""
        found, tokens = self.gradients.add(step, self.items(step), phase, self._weights(step))
        for index, part in found.items():
            if not isfinite(part):
                checkpoint.stop(self.checkpoints, step, f"the loss of {self.names[index]} is {part}")
        return found, tokens

    def between(self, steps: int) -> dict[str, Any]:
        """What to log of the model after that many steps, beside the last of them."""
        found = self._early_drop(steps) | self._stop(steps)
        if self.selection is not None:
            found |= self.selection.after(steps, last=self.settled or self._coming(steps) is None)
        return found | self._signal(self.schedule.steps if self.stops else steps)

    def _signal(self, steps: int) -> dict[str, Any]:
        """What to log of the signal after that many steps: nothing where none is due."""
        signal = self.job.signal
        if signal is None or (point := signal.point(steps, self.schedule.steps)) is None:
            return {}
        found = measure(
            self.model,
            self.texts,
            Slices(signal.slice(len(self.job.forget)), signal.slice(len(self.job.retain))),
            size=self.job.optim.micro_batch_size,
            max_length=self.job.model.max_length,
            device=self.device,
        )
        return {"signal": {"point": point, **found}}

    def _early_drop(self, steps: int) -> dict[str, Any]:
        """What to log of early drop after that many steps: nothing where no epoch has ended, or training has.

        An epoch whose last steps have no rows left ends here too, before the next step that has some.
        """
        if self.drop is None or not self._ends_epoch(steps):
            return {}
        size = self.job.optim.micro_batch_size
        return {"early_drop": self.drop.measure(self.model, self.texts, size=size, device=self.device)}

    def _coming(self, steps: int) -> int | None:
        """The next step that has something to train on."""
        return next((step for step in range(steps, self.schedule.steps) if self.items(step)), None)

    def _stop(self, steps: int) -> dict[str, Any]:
        """What to log of the stopping rule after that many steps, where an epoch ends; it may stop the training."""
        job = self.job
        if job.stop is None or not self._ends_epoch(steps):
            return {}
        found = stop.measure(
            self.model, self.texts, len(job.forget), job.stop, size=job.optim.micro_batch_size,
            max_length=job.model.max_length, device=self.device,
        )  # fmt: skip
        self.settled = found["settled"]
        return {"stop": found}

    def _ends_epoch(self, steps: int) -> bool:
        """Whether an epoch has ended after that many steps, and training goes on."""
        coming = self._coming(steps)
        return coming is not None and int(self._epoch(coming)) != int(self._epoch(steps - 1))

    def watch(self, done: int) -> None:
        """After that many steps. What was seen before a resume is seen again: the same."""
        watch = self.job.watch
        if watch is not None and done in watch.steps:
            self.model.eval()
            watch(self.model, done)
            self.model.train()

    def _read(self, step: int) -> None:
        """Make the tokens of all texts of a step, whoever is to run over which. Raises UserError, on every worker."""
        items = self.schedule.step(step)
        self.texts.encode(self.passes, items)
        check_alike(self.texts, self.needs, items)
        self.read = max(self.read, step + 1)

    def items(self, step: int) -> list[Item]:
        """What is trained on in a step: empty where early drop has left nothing of it."""
        if step >= self.read:
            self._read(step)
        items = self.schedule.step(step)
        return items if self.drop is None else self.drop.left(items, self.world)

    def _epoch(self, steps: int) -> float:
        """Passes over the anchors made by that many steps."""
        return steps * self.schedule.optim.batch_size / self.schedule.anchors

    def _visited(self) -> list[list[Item]]:
        """Of each worker, what its steps run over."""
        items: list[list[Item]] = [[] for _ in range(self.world)]
        for step in range(self.schedule.steps):
            for index, part in enumerate(self.gradients.micro_batches(self.items(step))):
                items[index % self.world] += part
        if self.drop is None:
            return items
        return [[item for part in items for item in part]] * self.world  # what is dropped changes who gets which text

    def _not_finite(self, step: int, parts: Mapping[int, float], norm: float) -> NoReturn:
        losses = ", ".join(f"{self.names[index]} {part:.4g}" for index, part in parts.items())
        checkpoint.stop(self.checkpoints, step, f"the gradient's norm is {norm}, at losses of {losses}")
