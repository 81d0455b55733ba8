"""What whoever relearns the forget set descends: the surprise -log p at its rows' answers."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from obliviate.data.schedule import Item
from obliviate.methods import Needs, Pass, Positions
from obliviate.scoring import Stat
from obliviate.train.batch import Batch, Texts, collate, micro_batch_seed, micro_batches
from obliviate.train.job import Job
from obliviate.train.model import ScoredModel

TRUE_ANSWERS: Needs = {Pass.FORGET: {Stat.LOGP: Positions.ANSWER}}


def surprise(model: ScoredModel, true: Batch) -> Tensor:
    """Summed over the answer tokens of a batch of `TRUE_ANSWERS`, nats. Every worker calls it."""
    answers = {str(Pass.FORGET): (true.rows[Pass.FORGET], true.answer_BT, (Stat.LOGP,))}
    out: dict[str, Tensor] = model(true.input_ids_BT, true.attention_BT, answers, {})
    return -out[f"{Pass.FORGET}/{Stat.LOGP}"].sum()


def add_gradients(job: Job, model: ScoredModel, texts: Texts, items: Sequence[Item], seed: Sequence[int]) -> float:
    """Of the mean over the answer tokens of these items, which the workers share: at least as many as they are. The
    real tokens of all of them. `seed` is dropout's. Every worker calls it."""
    rank, world = dist.get_rank(), dist.get_world_size()
    device = next(model.parameters()).device
    mine = micro_batches(texts, items, Pass.FORGET, job.optim.micro_batch_size, world)[rank::world]
    batches = [collate(texts, each, TRUE_ANSWERS, job.model.max_length).to(device) for each in mine]
    counts = torch.tensor([[int(batch.answer_BT.sum()), batch.tokens] for batch in batches], device=device).sum(0)
    dist.all_reduce(counts)
    answers, tokens = counts.tolist()
    for index, batch in enumerate(batches):
        torch.manual_seed(micro_batch_seed(seed, rank + index * world))
        (surprise(model, batch) / answers * world).backward()  # FSDP2 averages over workers
    return float(tokens)
