"""What a relearning attack would find first: a low-rank adapter, trained on the forget set by one pass of plain
gradient descent, as RepSelect (arXiv:2606.17168) puts it beside the weights while it looks at them.

The output of a layer with an adapter is that of the weight W + s B A, and so is its gradient in W: the sum takes the
weight's place, and no second kind of model is trained.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from torch import Tensor

from obliviate.data.schedule import Schedule
from obliviate.errors import UserError
from obliviate.methods import ForgetObjective
from obliviate.schema import LoraSpec
from obliviate.train.batch import Texts
from obliviate.train.job import Job
from obliviate.train.lora import adapter_change
from obliviate.train.model import ScoredModel, build, source_name
from obliviate.train.shards import local, mine, restored
from obliviate.train.surprise import add_gradients

LORA = LoraSpec(rank=8, alpha=8, dropout=0)  # peft's defaults, which the authors' code takes


@contextmanager
def adversary(job: Job, model: ScoredModel, texts: Texts, rate: float) -> Iterator[None]:
    """While the block runs, each trained linear layer has its adapter added; afterwards its weights are what they were.

    All workers call it. Raises UserError for experts that are fused in one parameter. A rate of 0: nothing is added.
    """
    learned = _learned(job, texts, rate, next(model.parameters()).device) if rate else {}
    weights = [(p, learned[source_name(n)]) for n, p in model.named_parameters() if source_name(n) in learned]
    with restored([parameter for parameter, _ in weights]):
        with torch.no_grad():
            for parameter, change in weights:
                local(parameter).add_(change)
        yield


def _learned(job: Job, texts: Texts, rate: float, device: torch.device) -> dict[str, Tensor]:
    """This worker's part of s B A of each adapted weight, by its name in the model."""
    trainable = next(term.trainable for term in job.terms if isinstance(term, ForgetObjective))
    spec = job.model.model_copy(update={"lora": LORA})
    model = build(spec, seed=job.seed, activation_checkpointing=False, device=device, trainable=trainable)
    for name, module in model.named_modules():
        if isinstance(module, ParamWrapper):
            raise UserError(
                f"method.adversary: {source_name(name)} holds the weights of all experts, beside which no adapter is "
                "trained here; set adversary: 0"
            )
    rows, least = len(job.forget), dist.get_world_size()
    optim = job.optim.model_copy(update={"epochs": 1, "batch_size": max(least, min(job.optim.batch_size, rows))})
    schedule = Schedule(rows, 1, 1, optim, job.seed)
    for step in range(schedule.steps):
        add_gradients(job, model, texts, schedule.step(step), (job.seed, step))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=rate)
                parameter.grad = None
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and module.lora_B["default"].weight.requires_grad:
            found[source_name(f"{name}.weight")] = mine(adapter_change(module), module.base_layer.weight).clone()
    del model
    gc.collect()  # FSDP2's models are cycles
    return found
