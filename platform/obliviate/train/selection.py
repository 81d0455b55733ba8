"""Which step's weights a training ends with, where that need not be the last: measured between steps on held-out texts.

Two rules, alone or together:

- A budget: once the divergence from the starting model exceeds it, training stops, and the last measured step within it
  is chosen. After the harness of arXiv:2606.17168, which compares methods at one budget.
- Validation: the step with the highest score is chosen, the earliest of equals. The score is
  (1 - probability of the facts to forget) x probability of the answers to keep: the area that the step alone would
  dominate in the two figures. Training stops once `patience` measurements have found no higher one. Where refusals
  are counted, the facts are those that greedy answers tell, and a step that refuses more of the rows to keep than is
  allowed is not chosen.

Together: the highest score within the budget. The starting model counts as step 0. What was measured is in the run's
log, from which a resumed run decides the same again; the chosen weights are in its checkpoints.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from obliviate.data.text import TextEncoder
from obliviate.models import stop_ids
from obliviate.train.held_out import Answers, Divergence, Known, Reading
from obliviate.train.job import Job
from obliviate.train.model import ScoredModel, reshard


@dataclass
class Rule:
    """What measurements come to. `score`: of the chosen step; None without validation."""

    budget: float | None
    patience: int | None
    score: float | None
    refused: float | None = None  # the share of rows to keep that may be; None: not counted
    step: int = 0  # the chosen one
    why: str | None = None  # training stops
    _since: int = 0  # measurements since the chosen one

    def chooses(self, step: int, found: Mapping[str, float | None]) -> bool:
        """Whether the step is chosen, of what was measured after it; a figure that is no number is None."""
        if self.budget is not None and ((kl := found["kl"]) is None or kl > self.budget):
            self.why = "budget"
            return False
        if self.score is not None and "score" not in found:
            return False
        score, refused = found.get("score"), found.get("refused")
        too_many = self.refused is not None and refused is not None and refused > self.refused
        if self.score is not None and (score is None or score <= self.score or too_many):
            self._since += 1
            if self._since == self.patience:
                self.why = "patience"
            return False
        self.step, self.score, self._since = step, score, 0
        return True


class Selection:
    """Holds a copy of the trained parameters of the chosen step. Every worker calls it alike."""

    def __init__(self, job: Job, encoder: TextEncoder, model: ScoredModel, device: torch.device) -> None:
        """`model` is the starting one."""
        budget, validation = job.budget, job.validation
        self._model, self._budget, self._validation = model, budget, validation
        reading = Reading(job.optim.micro_batch_size, job.model.max_length, job.model.compute_dtype, device)
        model.eval()
        self._divergence = None if budget is None else Divergence(budget.rows, encoder, model, reading)
        self._known = None if validation is None else Known(validation.forget, validation.retain, encoder, reading)
        refusals = None if validation is None else validation.refusals
        self._answers = None
        if validation is not None and refusals is not None:
            ends = stop_ids(job.model, encoder.tokenizer)
            self._answers = Answers(validation.forget, validation.retain, refusals, encoder, model, ends, reading)
        self._start = self._scores()
        model.train()
        reshard(model)
        limit, patience = (None if budget is None else budget.kl), (None if validation is None else validation.patience)
        score = None if validation is None else self._start["score"] or 0.0
        self._rule = Rule(limit, patience, score, None if refusals is None else refusals.at_most)
        self.weights = {name: tensor.clone() for name, tensor in self._parameters()}

    def resume(self, log: Iterable[Mapping[str, Any]]) -> None:
        """Decide again of what was logged. The chosen weights come with the checkpoint."""
        for line in log:
            if "held_out" in line:
                self._rule.chooses(line["step"], line["held_out"])

    @property
    def stops(self) -> bool:
        return self._rule.why is not None

    def after(self, step: int, *, last: bool) -> dict[str, Any]:
        """What to log of that many steps; with the first one, what the starting model's figures are."""
        start = {"held_out_start": self._start} if step == 1 and self._start else {}
        validates = self._validation is not None and (last or step % self._validation.every_steps == 0)
        if not validates and (self._budget is None or not (last or step % self._budget.every_steps == 0)):
            return start
        self._model.eval()
        found = {} if self._divergence is None else {"kl": _finite(self._divergence(self._model))}
        if validates:
            found |= self._scores()
        self._model.train()
        reshard(self._model)
        chosen = self._rule.chooses(step, found)
        if chosen:
            for name, tensor in self._parameters():
                self.weights[name].copy_(tensor)
        stops = {"stops": self._rule.why} if self.stops else {}
        return {**start, "held_out": {**found, "chosen": chosen, **stops}}

    @torch.no_grad()
    def choose(self) -> None:
        """Put the chosen weights into the model."""
        reshard(self._model)
        for name, tensor in self._parameters():
            tensor.copy_(self.weights[name])

    def _parameters(self) -> list[tuple[str, Tensor]]:
        return [(name, each.detach()) for name, each in self._model.named_parameters() if each.requires_grad]

    def _scores(self) -> dict[str, float | None]:
        if self._known is None:
            return {}
        forget, retain = self._known(self._model)
        refused = {}
        if self._answers is not None:
            forget, refused["refused"] = self._answers(self._model)
        figures = {"forget": forget, "retain": retain, "score": (1 - forget) * retain, **refused}
        return {name: _finite(value) for name, value in figures.items()}


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
