"""Pruning without training: a share of the weights of each linear layer set to zero, those that matter least.

By magnitude, |W|, compared within a layer; or by WandA (Sun et al. 2023, arXiv:2306.11695): |W| times the norm of what
the weight is multiplied with over some texts, compared among the inputs of one output. What unlearning only masked may
come back when the weights that mask it go.

Shapes: O outputs, D inputs of a layer; T tokens of a text.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from obliviate.arithmetic import combine
from obliviate.errors import UserError
from obliviate.matrices import matrices

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from obliviate.linear import LinearWeight

NOT_MEASURED = "wanda, gptq and awq rest on its inputs; prune by: magnitude, and quantise by: nearest"


def prune(source: Path, share: float, folder: Path, norms: "Mapping[str, Tensor] | None" = None) -> None:
    """Write to `folder` the model of `source` (a Hugging Face folder) with a share of its linear layers' weights, all
    but the output layer's, set to zero: by magnitude, or, with the `input_norms` of this very model, by WandA.

    A tensor at a time is in memory. Raises UserError for a model that is quantised already.
    """
    linear = matrices(source)

    def changed(name: str, tensors: "list[Tensor]") -> "Tensor":
        (tensor,) = tensors
        if name not in linear:
            return tensor
        rows_OD = linear[name].rows(tensor)
        scores_OD = rows_OD.abs() if norms is None else rows_OD.abs() * norms[linear[name].weight].to(rows_OD)
        return linear[name].rows(without(rows_OD, scores_OD, share, by_output=norms is not None))

    combine([source], changed, folder)


def without(weight_OD: "Tensor", scores_OD: "Tensor", share: float, *, by_output: bool) -> "Tensor":
    """The weights, zero where scores are the lowest: a share, rounded down, of each output's, or of each matrix's."""
    dimensions = 1 if by_output else 2
    scores = scores_OD.flatten(-dimensions)
    lowest = scores.topk(int(share * scores.shape[-1]), dim=-1, largest=False, sorted=False).indices
    return weight_OD.flatten(-dimensions).scatter(-1, lowest, 0.0).view_as(weight_OD)


def measured_layers(model: "PreTrainedModel", advice: str = NOT_MEASURED) -> "dict[str, LinearWeight]":
    """By the name of the weight, those whose inputs are known. Raises UserError for experts that are fused."""
    from obliviate.linear import linear_weights

    weights = linear_weights(model)
    for name, weight in weights.items():
        if not weight.plain and model.get_parameter(name).ndim == 3:
            raise UserError(f"model.source: {name} holds several experts, whose inputs are not known: {advice}")
    return {name: weight for name, weight in weights.items() if weight.plain}


def input_norms(model: "PreTrainedModel", texts: Iterable[Sequence[int]]) -> "dict[str, Tensor]":
    """The norm of what each input of each linear layer was over all tokens of the texts (token ids), float32 [D], by
    the name of the weight. One number is held for each input.

    A text is read at a time, so that none is padded. Raises UserError for experts that are fused, and for a layer that
    no text reaches.
    """
    import torch

    from obliviate.inputs import read_by

    layers = measured_layers(model)
    sums_D = {name: torch.zeros(each.inputs, dtype=torch.float64, device=model.device) for name, each in layers.items()}
    read_by(model, texts, {name.rpartition(".")[0]: _adding(sum_D) for name, sum_D in sums_D.items()})
    for name, sum_D in sums_D.items():
        if not sum_D.any():
            raise UserError(f"model.source: {name} reads nothing of the texts: {NOT_MEASURED}")
    return {name: sum_D.sqrt().float().cpu() for name, sum_D in sums_D.items()}


def _adding(sum_D: "Tensor") -> "Callable[[Tensor], object]":
    return lambda x_ND: sum_D.add_(x_ND.square().sum(0))
