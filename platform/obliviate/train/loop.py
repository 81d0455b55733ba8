"""The training loop: plain torch, no Ray. Workers, sweeps and unit tests call `train`.

Each optimiser step sees one global batch of the schedule, cut into micro-batches over the workers. Every term's sum is
divided by its count over the whole step, so the result depends on neither workers nor micro-batches.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import HashStore
from torch.distributed.tensor import DTensor

from obliviate.data.rows import Row
from obliviate.data.schedule import Item, Schedule
from obliviate.errors import UserError
from obliviate.methods import Pass, Scores, Term, union_of_needs, widest
from obliviate.models import load_tokenizer, text_encoder
from obliviate.runs import write_whole
from obliviate.schema import ModelSpec, OptimSpec
from obliviate.scoring import Stat, TokenScores
from obliviate.train import checkpoint
from obliviate.train.batch import Batch, Texts, collate, micro_batches
from obliviate.train.model import DTYPES, ScoredModel, build
from obliviate.train.reference import Reference, compute

STEPS_FILE = "steps.jsonl"
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
    anchor: Pass = Pass.FORGET  # RETAIN when fine-tuning: an epoch is a pass over the retain rows

    @property
    def schedule(self) -> Schedule:
        anchors = len(self.forget if self.anchor is Pass.FORGET else self.retain)
        return Schedule(anchors, len(self.retain), len(self.refusals), self.optim, self.seed, self.pairing)  # type: ignore[arg-type]


class Reporter(Protocol):
    """Told of every finished optimiser step, on every worker: loss, its parts, rates."""

    def __call__(self, metrics: Mapping[str, Any]) -> None: ...


@contextmanager
def single_process() -> Iterator[None]:
    """A process group of one, for running the loop without Ray."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def train(job: Job, report: Reporter | None = None, *, device: torch.device | None = None) -> ScoredModel:
    """Train from the last checkpoint, or from the start, to the end. Needs a process group.

    `report` is not Ray Train's: that one waits for the controller's next poll, seconds at every step.

    Raises UserError where a loss stops being finite, or a checkpoint can't be written; the last checkpoint stays.
    """
    device = device or torch.device("cpu")
    trainer = _Trainer(job, device)
    start = trainer.resume()
    log = _StepLog(job.directory, start) if dist.get_rank() == 0 else None
    every = job.optim.checkpoint_every_steps or trainer.schedule.steps_per_epoch
    for step in range(start, trainer.schedule.steps):
        metrics = trainer.step(step)
        if log is not None:
            log.write(metrics)
        if report is not None:
            report(metrics)
        if (step + 1) % every == 0 and step + 1 < trainer.schedule.steps:
            checkpoint.save(
                job.directory / CHECKPOINTS,
                step + 1,
                trainer.model,
                trainer.optimizer,
                keep=job.optim.keep_checkpoints,
            )
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
        self.needs = union_of_needs(job.terms)
        self.trained = {each: stats for each, stats in self.needs.items() if not each.of_reference}
        self.weights = torch.tensor([term.weight for term in job.terms], device=device)
        torch.manual_seed(job.seed)
        self.model = build(
            job.model, seed=job.seed, activation_checkpointing=job.optim.activation_checkpointing, device=device
        )
        self.optimizer = _adamw(self.model, job.optim)
        self.reference = self._reference()

    def resume(self) -> int:
        """Steps already done."""
        path = checkpoint.latest(self.job.directory / CHECKPOINTS)
        return 0 if path is None else checkpoint.load(path, self.model, self.optimizer)

    def step(self, step: int) -> dict[str, Any]:
        """One optimiser step over the global batch; what to log of it."""
        began_s = time.perf_counter()
        batches = [
            collate(self.texts, items, self.needs, self.job.model.max_length).to(self.device)
            for items in self._every_micro_batch(step)[self.rank :: self.world]
        ]
        counts = self._counts(batches)
        sums = torch.zeros(len(self.job.terms) + 1, device=self.device)
        for index, batch in enumerate(batches):
            # Dropout depends on the step and the batch alone, so that a resumed run repeats it.
            torch.manual_seed(int(np.random.SeedSequence([self.job.seed, step, self.rank, index]).generate_state(1)[0]))
            scores = self._scores(batch)
            shares = torch.stack([term.loss(scores).sum for term in self.job.terms]) / counts
            # FSDP2 averages gradients over workers; each worker's share is of the global sum.
            (shares @ self.weights * self.world).backward()
            sums[:-1] += shares.detach()
            sums[-1] += batch.tokens
        dist.all_reduce(sums)
        *parts, tokens = sums.tolist()
        self._check_finite(step, parts)
        rate = self.schedule.learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        grad_norm = self._clip()
        self.optimizer.step()
        self.optimizer.zero_grad()
        elapsed_s = time.perf_counter() - began_s
        return {
            "step": step + 1,
            "steps": self.schedule.steps,
            "epoch": (step + 1) * self.job.optim.batch_size / self.schedule.anchors,
            "loss": sum(term.weight * part for term, part in zip(self.job.terms, parts, strict=True)),
            "parts": {term.type: part for term, part in zip(self.job.terms, parts, strict=True)},
            "learning_rate": rate,
            "grad_norm": grad_norm,
            "tokens": int(tokens),
            "tokens_per_s": tokens / elapsed_s,
        }

    def _every_micro_batch(self, step: int) -> list[list[Item]]:
        """Of all workers; number j is worker j % world's."""
        items = self.schedule.step(step)
        return micro_batches(self.texts, items, self.job.anchor, self.job.optim.micro_batch_size, self.world)

    def _scores(self, batch: Batch) -> Scores:
        wanted = {
            each.value: (batch.rows[each], batch.wanted_BT(each, widest(stats.values())), tuple(sorted(stats)))
            for each, stats in self.trained.items()
        }
        hidden = {
            each.value: self.reference.hidden_of(each, batch)
            for each, stats in self.trained.items()
            if Stat.REFERENCE_KL in stats
        }
        out = self.model(batch.input_ids_BT, batch.attention_BT, wanted, hidden)
        return self._by_pass(batch, out) | {
            each: self.reference.scores(each, batch) for each in self.needs if each.of_reference
        }

    def _counts(self, batches: Sequence[Batch]) -> Tensor:
        """Each term's count over the whole step. Counts depend on the masks alone: blank scores tell them."""
        counts = torch.zeros(len(self.job.terms), device=self.device)
        for batch in batches:
            zeros_BT = torch.zeros(batch.answer_BT.shape, device=self.device)
            zeros = {
                f"{each}/{stat}": zeros_BT[batch.rows[each]] for each in self.trained for stat in self.trained[each]
            }
            blank = self._by_pass(batch, zeros)
            blank |= {each: blank[each.text] for each in self.needs if each.of_reference}
            counts += torch.stack([term.loss(blank).count.float() for term in self.job.terms]).to(self.device)
        dist.all_reduce(counts)
        return counts.clamp(min=1)

    def _by_pass(self, batch: Batch, values: Mapping[str, Tensor]) -> dict[Pass, TokenScores]:
        return {
            each: TokenScores(
                {stat: values[f"{each}/{stat}"] for stat in stats},
                batch.answer_BT[batch.rows[each]],
                batch.sequence_BT[batch.rows[each]],
            )
            for each, stats in self.trained.items()
        }

    def _reference(self) -> Reference:
        """The starting model's constants for every text this worker will visit, before any step or checkpoint."""
        if not any(each.of_reference or Stat.REFERENCE_KL in stats for each, stats in self.needs.items()):
            return Reference()
        items: list[list[Item]] = [[] for _ in range(self.world)]
        for step in range(self.schedule.steps):
            for index, part in enumerate(self._every_micro_batch(step)):
                items[index % self.world] += part
        self.model.eval()
        kept = compute(
            self.model,
            self.texts,
            self.needs,
            items,
            self.rank,
            size=self.job.optim.micro_batch_size,
            max_length=self.job.model.max_length,
            device=self.device,
        )
        self.model.train()
        if kept.hidden:
            self.model.keep_reference_head(DTYPES[self.job.model.compute_dtype])
        return kept

    def _check_finite(self, step: int, parts: Sequence[float]) -> None:
        for term, part in zip(self.job.terms, parts, strict=True):
            if not isfinite(part):
                raise UserError(
                    f"step {step + 1}: the loss of {term.type} is {part}; the last checkpoint in "
                    f"{self.job.directory / CHECKPOINTS} is good. Lower optim.learning_rate or the term's weight"
                )

    def _clip(self) -> float:
        """The gradient's norm over all workers, before clipping."""
        limit = self.job.optim.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), float("inf") if limit is None else limit)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _adamw(model: torch.nn.Module, optim: OptimSpec) -> torch.optim.AdamW:
    """Matrices are decayed, vectors (norms, biases) are not, as in the Hugging Face trainer."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=optim.learning_rate, betas=optim.betas, fused=True)


class _StepLog:
    """One JSON line a step. Lines of steps that will be done again, after a resume, are dropped first."""

    def __init__(self, directory: Path, start: int) -> None:
        self._path = directory / STEPS_FILE
        kept = [line for line in read_steps(directory) if line["step"] <= start]
        write_whole(self._path, lambda path: path.write_text("".join(json.dumps(line) + "\n" for line in kept)))

    def write(self, metrics: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(metrics) + "\n")


def read_steps(directory: Path) -> list[dict[str, Any]]:
    """The lines logged so far; a last line that is still being written is left out."""
    path = directory / STEPS_FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]
