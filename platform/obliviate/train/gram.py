"""What reaches the linear layers: X^T X of each one's inputs X, summed over the tokens of texts.

Two methods rest on it: projected-gradient unlearning finds the directions in which the retain set's inputs lie, and
adapters of several requests are fused by how much of each direction each request uses. Neither needs the texts again.

Shapes: B texts, T tokens, N real tokens, D inputs of a layer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from obliviate.data.schedule import Item
from obliviate.directions import leading
from obliviate.errors import UserError
from obliviate.linear import fused
from obliviate.methods import Positions, Text
from obliviate.scoring import Stat
from obliviate.train.batch import Batch, Texts, collate
from obliviate.train.model import ScoredModel
from obliviate.train.together import turns_of


def linear_layers(model: ScoredModel) -> dict[str, nn.Module]:
    """Those whose weight is trained, by name; the output layer, which makes no features, is left out.

    Raises UserError where a trained weight multiplies what no layer reads as it is: experts that are fused in one
    parameter, and adapters of them.
    """
    head = model.causal_lm.get_output_embeddings()
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        folded = [*module.lora_A.parameters()] if isinstance(module, ParamWrapper) else fused(module).values()
        if any(each.requires_grad for each in folded):
            raise UserError(
                f"{name.removeprefix('model.')}: holds the weights of all experts or chooses among them, and what each "
                "weight reads is not measured; leave these out with method.trainable"
            )
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head and module.weight.requires_grad:
            found[name] = module
    return found


def width(layer: nn.Module) -> int:
    """D, the numbers that a linear layer reads."""
    assert isinstance(layer, (nn.Linear, Conv1D))
    size: int = layer.weight.shape[0 if isinstance(layer, Conv1D) else 1]
    return size


def outputs(layer: nn.Module) -> int:
    """The numbers that a linear layer puts out."""
    assert isinstance(layer, (nn.Linear, Conv1D))
    size: int = layer.weight.shape[1 if isinstance(layer, Conv1D) else 0]
    return size


@torch.no_grad()
def grams(
    model: ScoredModel,
    layers: Mapping[str, nn.Module],
    texts: Texts,
    each: Text,
    items: Sequence[Item],
    *,
    size: int,
    max_length: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """X^T X [D, D] of each layer, float32, over the texts of a pass; the same on every worker, which all call it.

    The workers share the items. D^2 numbers are held for each layer, 64 MiB at D = 4096: restrict what is trained.
    """
    found = {name: torch.zeros(width(layer), width(layer), device=device) for name, layer in layers.items()}
    texts.encode((each,), items)
    model.eval()
    for part, counted in turns_of(items, size):
        batch = collate(texts, part, {each: {Stat.LOGP: Positions.ANSWER}}, max_length).to(device)
        with _summed(layers, found if counted else {}, batch):
            model(batch.input_ids_BT, batch.attention_BT, {}, {})
    model.train()
    for gram in found.values():
        dist.all_reduce(gram)
    return found


@contextmanager
def _summed(layers: Mapping[str, nn.Module], sums: Mapping[str, Tensor], batch: Batch) -> Iterator[None]:
    """While the block runs, add each layer's inputs at real tokens to its sum."""
    real_BT = batch.attention_BT.bool()

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def add(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            x_BTD = inputs[0]
            if x_BTD.shape[:-1] != real_BT.shape:
                raise UserError(
                    f"{name}: reads its tokens in another order than the text's (a mixture of experts?), so that "
                    "padding cannot be told from text; leave this layer out with method.trainable"
                )
            x_ND = x_BTD[real_BT].float()
            sums[name].addmm_(x_ND.T, x_ND)

        return add

    handles = [layers[name].register_forward_pre_hook(hook(name)) for name in sums]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def leading_directions(gram_DD: Tensor, energy: float) -> Tensor:
    """Orthonormal [D, K]: see `obliviate.directions`."""
    return leading(gram_DD, energy).vectors_DK
