"""The gradients of a phase's terms over a step's global batch, which is cut into micro-batches over the workers.

Every term's sum is divided by its count over the whole step, so the result depends on neither workers nor
micro-batches; dropout depends on how many micro-batches a step has.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor

from obliviate.data.schedule import Item
from obliviate.methods import ParameterTerm, Scores, Term
from obliviate.scoring import needs_reference
from obliviate.train.batch import Batch, Texts, collate, micro_batch_seed, micro_batches
from obliviate.train.initial import InitialWeights
from obliviate.train.job import Job
from obliviate.train.latent import moved, moves
from obliviate.train.model import ScoredModel
from obliviate.train.phases import Phase
from obliviate.train.reference import Reference, scored_at
from obliviate.train.surprise import TRUE_ANSWERS


class PhaseGradients:
    """Made of the starting model. Every worker calls it alike."""

    def __init__(self, job: Job, model: ScoredModel, texts: Texts, terms: Sequence[Term]) -> None:
        self._job, self._model, self._texts, self._terms = job, model, texts, terms
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._device = next(model.parameters()).device
        of_weights = any(isinstance(term, ParameterTerm) for term in terms)
        self._initial = InitialWeights(model) if of_weights else None
        self.reference = Reference()  # what terms compare with, once it is there

    def micro_batches(self, items: Sequence[Item]) -> list[list[Item]]:
        """Of all workers; number j is worker j % world's."""
        return micro_batches(self._texts, items, self._job.anchor, self._job.optim.micro_batch_size, self._world)

    def add(
        self, step: int, items: Sequence[Item], phase: Phase, held: Sequence[float]
    ) -> tuple[dict[int, float], float]:
        """To what is there; each term's mean over these items, and the real tokens. `held`: what each of all the terms
        is multiplied by."""
        terms = [self._terms[index] for index in phase.terms]
        scored = [i for i, term in enumerate(terms) if term.needs]
        mine = self.micro_batches(items)[self._rank :: self._world] if scored else []
        batches = [
            collate(self._texts, part, phase.needs, self._job.model.max_length).to(self._device) for part in mine
        ]
        counts = self._counts([terms[i] for i in scored], phase, batches)
        weights = torch.tensor([held[phase.terms[i]] for i in scored], device=self._device)
        sums = torch.zeros(len(terms) + 1, device=self._device)
        for index, batch in enumerate(batches):
            seed = micro_batch_seed((self._job.seed, step), self._rank + index * self._world)
            with self._moved(phase, mine[index], batch, seed):
                torch.manual_seed(seed)
                scores = self.scores(phase, batch)
                shares = torch.stack([terms[i].loss(scores).sum for i in scored]) / counts
                # FSDP2 averages gradients over workers; each worker's share is of the global sum.
                if torch.is_grad_enabled():
                    (shares @ weights * self._world).backward()
            sums[scored] += shares.detach()
            sums[-1] += batch.tokens
        for i, term in enumerate(terms):
            if isinstance(term, ParameterTerm):
                assert self._initial is not None
                sums[i] = self._initial.add_gradients(term, held[phase.terms[i]], (self._job.seed, step))
        dist.all_reduce(sums)
        *parts, tokens = sums.tolist()
        return dict(zip(phase.terms, parts, strict=True)), tokens

    def _moved(self, phase: Phase, items: Sequence[Item], batch: Batch, seed: int) -> AbstractContextManager[None]:
        """Around a pass of the forget objective: hidden states moved to where the items' true answers are likeliest."""
        latent = self._job.latent
        if latent is None or not phase.of_forget:
            return nullcontext()
        true = collate(self._texts, items, TRUE_ANSWERS, self._job.model.max_length).to(self._device)
        return moved(self._model, moves(self._model, true, latent, seed), true, batch)

    def scores(self, phase: Phase, batch: Batch) -> Scores:
        wanted = {
            str(each): (batch.rows[each], batch.wanted_BT(each, scored_at(stats)), tuple(stats))
            for each, stats in phase.trained.items()
        }
        hidden = {
            str(each): self.reference.hidden_of(each, batch)
            for each, stats in phase.trained.items()
            if any(map(needs_reference, stats))
        }
        out = self._model(batch.input_ids_BT, batch.attention_BT, wanted, hidden)
        return {
            each: self.reference.scores(each, stats, batch)
            if each.of_reference
            else batch.scores(each, {stat: out[f"{each}/{stat}"] for stat in stats})
            for each, stats in phase.needs.items()
        }

    def _counts(self, terms: Sequence[Term], phase: Phase, batches: Sequence[Batch]) -> Tensor:
        """Each term's count over the whole step. Counts depend on the masks alone: blank scores tell them."""
        counts = torch.zeros(len(terms), device=self._device)
        for batch in batches:
            blank = batch.blank(phase.needs)
            counts += torch.stack([term.loss(blank).count.float() for term in terms]).to(self._device)
        dist.all_reduce(counts)
        return counts.clamp(min=1)
