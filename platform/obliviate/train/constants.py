"""What terms compare with, for every text that a training will visit: constants of the starting model, and of others.

Another model than the starting one is in memory only while it computes them.
"""

import gc
from collections.abc import Sequence

import torch
import torch.distributed as dist

from obliviate.data.schedule import Item
from obliviate.head import GenericHead, Head, SteeredHead
from obliviate.methods import Needs
from obliviate.schema import ModelSpec
from obliviate.scoring import Generic
from obliviate.train.batch import Texts
from obliviate.train.job import Job
from obliviate.train.model import DTYPES, ScoredModel, build, checked
from obliviate.train.reference import Reference, compute, reference_needs
from obliviate.train.shared_reference import SharedReference, size
from obliviate.train.steered import further_needs, put_beside, steered_texts


def reference_of(
    job: Job,
    model: ScoredModel,
    texts: Texts,
    needs: Needs,
    items_of_worker: Sequence[Sequence[Item]],
    device: torch.device,
) -> Reference:
    """The constants; `model`, which is the starting one, gets the output layers that it is compared through."""

    def of(other: ModelSpec | None, needs: Needs) -> tuple[Reference, Head | None]:
        return _constants(job, other, model, texts, needs, items_of_worker, device)

    kept, head = of(job.reference, {**needs, **further_needs(needs)})
    model.reference_heads = dict.fromkeys(map(str, reference_needs(needs)[1]), head) if head else {}
    put_beside(kept, texts, needs, items_of_worker[dist.get_rank()])
    for each, steered, _ in steered_texts(needs):
        assert head is not None
        model.reference_heads[str(each)] = SteeredHead(head, steered.eta)
    generic = {each: stat for each, stats in needs.items() for stat in stats if isinstance(stat, Generic)}
    for each, stat in generic.items():
        assert head is not None
        assert job.reinforced is not None
        learned, learned_head = of(job.reinforced, {each: {stat: needs[each][stat]}})
        assert learned_head is not None
        kept.hidden |= {key: torch.cat([kept.hidden[key], own], -1) for key, own in learned.hidden.items()}
        model.reference_heads[str(each)] = GenericHead(head, learned_head, stat.alpha)
    return kept


def _constants(
    job: Job,
    other: ModelSpec | None,
    starting: ScoredModel,
    texts: Texts,
    needs: Needs,
    items_of_worker: Sequence[Sequence[Item]],
    device: torch.device,
) -> tuple[Reference, Head | None]:
    """What another model (None: the starting one) leaves behind of each worker's items, and its output layer where
    hidden states stand for its distributions."""
    shared = None
    # Components are of all forget rows, which a shared file does not know of.
    if job.shared_reference is not None and len(items_of_worker) == 1 and not starting.components:
        shared = SharedReference(job.shared_reference, other or job.model, needs)
    known = Reference() if shared is None else shared.load()
    before = size(known)
    model = starting
    if other is not None:
        model = checked(build(other, seed=0, activation_checkpointing=False, device=device))
        model.components = starting.components
    model.eval()
    kept = compute(
        model, texts, needs, items_of_worker, dist.get_rank(), size=job.optim.micro_batch_size,
        max_length=job.model.max_length, device=device, known=known,
    )  # fmt: skip
    starting.train()
    if shared is not None:
        shared.add(kept, before)
    head = model.copy_head(DTYPES[job.model.compute_dtype]) if kept.hidden else None
    if other is not None:
        del model
        gc.collect()  # FSDP2's models are cycles
    return kept, head
