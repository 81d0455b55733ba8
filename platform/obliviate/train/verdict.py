"""A first verdict on what was trained: how many of some rows' facts the model still says to whoever asks.

So that a training which has forgotten nothing is seen before it is measured: a few greedy answers.
"""

import torch

from obliviate.data.key_facts import asked_for, says
from obliviate.models import encoder_of, stop_ids
from obliviate.train.job import Job
from obliviate.train.model import ScoredModel
from obliviate.train.said import greedy

NEW_TOKENS = 64  # of an answer: TOFU's longest are about as long


def still_said(model: ScoredModel, job: Job, device: torch.device) -> dict[str, int] | None:
    """Of `job.asked`, how many answers hold all words of their fact that the question does not, or an alias of it; None
    where no row is asked. All workers call it. The weights, and what is drawn later, stay as they are."""
    if not job.asked:
        return None
    encoder = encoder_of(job.model)
    said = greedy(
        model,
        encoder,
        {index: encoder.prompt(*row.asked) for index, row in enumerate(job.asked)},
        NEW_TOKENS,
        stop_ids(job.model, encoder.tokenizer),
        size=job.optim.micro_batch_size,
        device=device,
    )
    told = [
        says(said[index], asked_for(row)) or any(says(said[index], [alias]) for alias in row.aliases)
        for index, row in enumerate(job.asked)
    ]
    return {"said": sum(told), "of": len(told)}
