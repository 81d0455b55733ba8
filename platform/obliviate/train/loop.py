"""The training loop: plain torch, no Ray. Workers, sweeps and unit tests call `train`.

Each optimiser step sees one global batch of the schedule, cut into micro-batches over the workers. Every term's sum is
divided by its count over the whole step, so the result depends on neither workers nor micro-batches.
"""

import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import HashStore
from torch.distributed.tensor import DTensor

from obliviate.data.rows import Row
from obliviate.data.schedule import Item, Schedule
from obliviate.errors import UserError
from obliviate.methods import ForgetObjective, Pass, Scores, Term, union_of_needs
from obliviate.models import load_tokenizer, text_encoder
from obliviate.schema import ModelSpec, OptimSpec
from obliviate.scoring import Activation, TokenScores, needs_reference
from obliviate.train import checkpoint
from obliviate.train.batch import Batch, Texts, collate, micro_batches
from obliviate.train.log import StepLog
from obliviate.train.model import DTYPES, ScoredModel, build, layer_of
from obliviate.train.reference import Reference, compute, scored_at
from obliviate.train.shared_reference import SharedReference, size
from obliviate.train.signal import Signal, Slices, measure

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Job:
    """All that training needs; travels to the workers as it is."""

    model: ModelSpec
    terms: tuple[Term, ...]
    forget: tuple[Row, ...]
    retain: tuple[Row, ...]
    refusals: tuple[str, ...]
    optim: OptimSpec
    seed: int
    pairing: str
    directory: Path  # of the run
    reference: ModelSpec | None = None  # None: the model itself, before the first step
    anchor: Pass = Pass.FORGET  # RETAIN when fine-tuning: an epoch is a pass over the retain rows
    signal: Signal | None = None  # measured on the way, for whoever decides whether to go on
    shared_reference: Path | None = None  # folder of constants that trainings of one worker share; None: its own alone

    @property
    def schedule(self) -> Schedule:
        of_retain = self.anchor is Pass.RETAIN
        anchors = len(self.retain if of_retain else self.forget)
        return Schedule(anchors, len(self.retain), len(self.refusals), self.optim, self.seed, self.pairing, of_retain)  # type: ignore[arg-type]


class Reporter(Protocol):
    """Told of every finished optimiser step, on every worker: loss, its parts, rates."""

    def __call__(self, metrics: Mapping[str, Any]) -> None: ...


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

    Raises UserError where a loss or its gradient stops being finite, or a checkpoint can't be written; the last good
    checkpoint stays: one that a step with finite losses has followed.
    """
    device = device or torch.device("cpu")
    trainer = _Trainer(job, device)
    start = trainer.resume()
    log = StepLog(job.directory, start) if dist.get_rank() == 0 else None
    due = checkpoint.Cadence(job.optim.checkpoint_every_steps)
    for step in range(start, trainer.schedule.steps):
        metrics = trainer.step(step) | trainer.signal(step + 1)
        checkpoint.prune(job.directory / CHECKPOINTS, job.optim.keep_checkpoints)
        if log is not None:
            log.write(metrics)
        if report is not None:
            report(metrics)
        if step + 1 < trainer.schedule.steps and due(step + 1):
            with due.saving():
                if log is not None:
                    log.publish()
                checkpoint.save(
                    job.directory / CHECKPOINTS,
                    step + 1,
                    trainer.weights,
                    trainer.model,
                    trainer.optimizer,
                )
    if log is not None:
        log.close()
    return trainer.model


class _Trainer:
    def __init__(self, job: Job, device: torch.device) -> None:
        self.job, self.device = job, device
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.schedule = job.schedule
        if job.optim.batch_size < self.world:
            raise UserError(
                f"optim.batch_size: {job.optim.batch_size} is less than cluster.workers {self.world}; "
                "every worker needs an item of each batch"
            )
        encoder = text_encoder(job.model, load_tokenizer(job.model))
        self.texts = Texts(encoder, job.forget, job.retain, job.refusals)
        self.terms = tuple(term.seeded(job.seed) for term in job.terms)
        self.needs = union_of_needs(self.terms)
        self.trained = {each: stats for each, stats in self.needs.items() if not each.of_reference}
        self.weights = [term.weight for term in self.terms]  # of the next step: a dual variable among them moves
        torch.manual_seed(job.seed)
        self.model = build(
            job.model,
            seed=job.seed,
            activation_checkpointing=job.optim.activation_checkpointing,
            device=device,
            trainable=next((term.trainable for term in self.terms if isinstance(term, ForgetObjective)), None),
        )
        _check_layers(self.terms, self.model)
        self.optimizer = _adamw(self.model, job.optim)
        self.reference = self._reference()

    def resume(self) -> int:
        """Steps already done."""
        path = checkpoint.latest(self.job.directory / CHECKPOINTS)
        if path is None:
            return 0
        step, self.weights = checkpoint.load(path, self.model, self.optimizer)
        return step

    def step(self, step: int) -> dict[str, Any]:
        """One optimiser step over the global batch; what to log of it."""
        began_s = time.perf_counter()
        batches = [
            collate(self.texts, items, self.needs, self.job.model.max_length).to(self.device)
            for items in self._every_micro_batch(step)[self.rank :: self.world]
        ]
        counts = self._counts(batches)
        weights = torch.tensor(self.weights, device=self.device)
        sums = torch.zeros(len(self.terms) + 1, device=self.device)
        for index, batch in enumerate(batches):
            # Dropout depends on the step and the batch alone, so that a resumed run repeats it.
            torch.manual_seed(int(np.random.SeedSequence([self.job.seed, step, self.rank, index]).generate_state(1)[0]))
            scores = self._scores(batch)
            shares = torch.stack([term.loss(scores).sum for term in self.terms]) / counts
            # FSDP2 averages gradients over workers; each worker's share is of the global sum.
            (shares @ weights * self.world).backward()
            sums[:-1] += shares.detach()
            sums[-1] += batch.tokens
        dist.all_reduce(sums)
        *parts, tokens = sums.tolist()
        self._check_finite(step, parts)
        rate = self.schedule.learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        grad_norm = self._clip()
        if not isfinite(grad_norm):  # a step would make weights of it that no later check could undo
            self._stop(step, f"the gradient's norm is {grad_norm}, at losses of " + _listed(self.terms, parts))
        self.optimizer.step()
        self.optimizer.zero_grad()
        elapsed_s = time.perf_counter() - began_s
        metrics = {
            "step": step + 1,
            "steps": self.schedule.steps,
            "epoch": self._epoch(step + 1),
            "loss": sum(weight * part for weight, part in zip(self.weights, parts, strict=True)),
            "parts": {term.type: part for term, part in zip(self.terms, parts, strict=True)},
            "weights": {term.type: weight for term, weight in zip(self.terms, self.weights, strict=True)},
            "learning_rate": rate,
            "grad_norm": grad_norm,
            "tokens": int(tokens),
            "tokens_per_s": tokens / elapsed_s,
            "peak_memory_bytes": _peak_memory_bytes(self.device),
        }
        # From sums over all workers: the same on each of them.
        self.weights = [
            term.next_weight(weight, part, self._epoch(step))
            for term, weight, part in zip(self.terms, self.weights, parts, strict=True)
        ]
        return metrics

    def signal(self, steps: int) -> dict[str, Any]:
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

    def _epoch(self, steps: int) -> float:
        """Passes over the anchors made by that many steps."""
        return steps * self.job.optim.batch_size / self.schedule.anchors

    def _every_micro_batch(self, step: int) -> list[list[Item]]:
        """Of all workers; number j is worker j % world's."""
        items = self.schedule.step(step)
        return micro_batches(self.texts, items, self.job.anchor, self.job.optim.micro_batch_size, self.world)

    def _scores(self, batch: Batch) -> Scores:
        wanted = {
            each.value: (batch.rows[each], batch.wanted_BT(each, scored_at(stats)), tuple(stats))
            for each, stats in self.trained.items()
        }
        hidden = {
            each.value: self.reference.hidden_of(each, batch)
            for each, stats in self.trained.items()
            if any(map(needs_reference, stats))
        }
        out = self.model(batch.input_ids_BT, batch.attention_BT, wanted, hidden)
        return {
            each: self.reference.scores(each, stats, batch)
            if each.of_reference
            else batch.scores(each, {stat: out[f"{each}/{stat}"] for stat in stats})
            for each, stats in self.needs.items()
        }

    def _counts(self, batches: Sequence[Batch]) -> Tensor:
        """Each term's count over the whole step. Counts depend on the masks alone: blank scores tell them."""
        counts = torch.zeros(len(self.terms), device=self.device)
        for batch in batches:
            zeros_BT = torch.zeros(batch.answer_BT.shape, device=self.device)
            blank: dict[Pass, TokenScores] = {}
            for each, stats in self.needs.items():
                zeros = zeros_BT[batch.rows[each.text]]
                blank[each] = batch.scores(
                    each, {stat: zeros[..., None] if isinstance(stat, Activation) else zeros for stat in stats}
                )
            counts += torch.stack([term.loss(blank).count.float() for term in self.terms]).to(self.device)
        dist.all_reduce(counts)
        return counts.clamp(min=1)

    def _reference(self) -> Reference:
        """The reference's constants for every text this worker will visit, before any step or checkpoint.

        Another model than the starting one is in memory only while it computes them.
        """
        if not any(each.of_reference or any(map(needs_reference, stats)) for each, stats in self.needs.items()):
            return Reference()
        items: list[list[Item]] = [[] for _ in range(self.world)]
        for step in range(self.schedule.steps):
            for index, part in enumerate(self._every_micro_batch(step)):
                items[index % self.world] += part
        shared = None
        if self.job.shared_reference is not None and self.world == 1:
            rows = (self.job.forget, self.job.retain)
            whose = self.job.reference or self.job.model
            shared = SharedReference(self.job.shared_reference, whose, self.needs, rows, self.job.refusals)
        known = Reference() if shared is None else shared.load()
        before = size(known)
        other = self.job.reference
        model = (
            self.model if other is None else build(other, seed=0, activation_checkpointing=False, device=self.device)
        )
        model.eval()
        kept = compute(
            model,
            self.texts,
            self.needs,
            items,
            self.rank,
            size=self.job.optim.micro_batch_size,
            max_length=self.job.model.max_length,
            device=self.device,
            known=known,
        )
        self.model.train()
        if shared is not None:
            shared.add(kept, before)
        if kept.hidden:
            self.model.reference_head = model.copy_head(DTYPES[self.job.model.compute_dtype])
        return kept

    def _check_finite(self, step: int, parts: Sequence[float]) -> None:
        for term, part in zip(self.terms, parts, strict=True):
            if not isfinite(part):
                self._stop(step, f"the loss of {term.type} is {part}")

    def _stop(self, step: int, reason: str) -> NoReturn:
        """All workers come here together. A checkpoint of the weights that this step began with is no good one."""
        folder = self.job.directory / CHECKPOINTS
        checkpoint.discard(folder, step)
        good = checkpoint.latest(folder)
        kept = "there is no good checkpoint before it" if good is None else f"the last good checkpoint is {good}"
        raise UserError(f"step {step + 1}: {reason}; {kept}. Lower optim.learning_rate or the term's weight")

    def _clip(self) -> float:
        """The gradient's norm over all workers, before clipping."""
        limit = self.job.optim.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), float("inf") if limit is None else limit)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _check_layers(terms: Sequence[Term], model: ScoredModel) -> None:
    for term in terms:
        layers = {stat.layer for stats in term.needs.values() for stat in stats if isinstance(stat, Activation)}
        for layer in layers:
            try:
                layer_of(model.causal_lm, layer)
            except UserError as error:
                raise UserError(f"{term.type}: {error}") from error


def _peak_memory_bytes(device: torch.device) -> int:
    """The most that this worker has held so far: of GPU memory where it trains on one, else of its process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def _listed(terms: Sequence[Term], parts: Sequence[float]) -> str:
    return ", ".join(f"{term.type} {part:.4g}" for term, part in zip(terms, parts, strict=True))


def _adamw(model: torch.nn.Module, optim: OptimSpec) -> torch.optim.AdamW:
    """Matrices are decayed, vectors (norms, biases) are not, as in the Hugging Face trainer.

    Every parameter has its state from the start, also one that no loss reaches (above the layer that RMU steers): a
    checkpoint holds the state of all.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    adamw = torch.optim.AdamW(groups, lr=optim.learning_rate, betas=optim.betas, fused=True)
    for p in trained:
        step = torch.zeros((), dtype=torch.float32, device=p.device)
        adamw.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    return adamw
