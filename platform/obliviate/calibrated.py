"""Rounding to few bits that looks at what the layers read: GPTQ and AWQ, written back as plain weights.

GPTQ (Frantar et al. 2023, arXiv:2210.17323, algorithm 1) rounds the inputs of a layer one after the other and lets
those that are left make good the error. AWQ (Lin et al. 2024, arXiv:2306.00978, section 3.2) stretches inputs that
carry much before it rounds, and shrinks them behind. Both want to keep what a layer says on some texts: forgetting
that rests on small changes may go on the way, or stay where rounding to the nearest would lose it.

Shapes: O outputs, D inputs of a layer; T tokens of a text; G inputs that share a step.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from obliviate.decoder import decoder_layers
from obliviate.inputs import grams_of
from obliviate.prune import measured_layers
from obliviate.quantise import INTEGERS, Format, largest_of, nearest_integer, quantised

if TYPE_CHECKING:
    from transformers import PreTrainedModel

By = Literal["gptq", "awq"]

DAMPING = 0.01  # of the mean squared input, added to each: GPTQ's own
EXPONENTS = [step / 20 for step in range(20)]  # of the inputs' sizes, AWQ's own grid


@torch.no_grad()
def calibrated(model: "PreTrainedModel", texts: Sequence[Sequence[int]], to: Format, by: By) -> dict[str, Tensor]:
    """The values [O, D] of the linear layers of all decoder layers, by the weight's name, bfloat16; the model has them
    itself then. Each decoder layer reads what those below it put out that are rounded already.

    A text (token ids) is read at a time, once for each decoder layer and as far as it. The model is in memory, and X^T
    X of one decoder layer's inputs. Raises UserError for experts that are fused.
    """
    weights, values = measured_layers(model), {}
    names = {id(module): name for name, module in model.named_modules()}
    rounding = {"gptq": gptq, "awq": awq}[by]
    for layer in decoder_layers(model):
        inside = [names[id(module)] for module in layer.modules()]
        inputs = {name: weights[f"{name}.weight"].inputs for name in inside if f"{name}.weight" in weights}
        for name, gram_DD in grams_of(model, texts, inputs, until=layer).items():
            if not gram_DD.any():
                continue  # an expert that no text reaches
            weight = model.get_parameter(f"{name}.weight")
            turned = weights[f"{name}.weight"].transposed
            rows_OD = weight.mT if turned else weight
            found_OD = rounding(rows_OD.float(), gram_DD, to)
            weight.copy_(found_OD.mT if turned else found_OD)
            values[f"{name}.weight"] = found_OD.bfloat16().cpu()
    return values


def gptq(weight_OD: Tensor, gram_DD: Tensor, to: Format) -> Tensor:
    """The values [O, D] that the codes stand for. `gram_DD`: X^T X of what the layer reads. An input that is always
    zero gets the weight zero."""
    largest, group = INTEGERS[to]
    left_OD, values_OD = weight_OD.clone(), torch.empty_like(weight_OD)
    inputs = weight_OD.shape[1]
    idle_D = gram_DD.diagonal() == 0
    left_OD[:, idle_D] = 0
    damped_DD = gram_DD + torch.diag(idle_D.float() + DAMPING * gram_DD.diagonal().mean())
    inverse_DD = torch.cholesky_inverse(torch.linalg.cholesky(damped_DD.double()))
    upper_DD = torch.linalg.cholesky(inverse_DD, upper=True).float()
    for start in range(0, inputs, size := group or inputs):
        stop = min(start + size, inputs)
        top_O = largest_of(left_OD[:, start:stop])[:, 0]
        errors_OG = torch.zeros_like(left_OD[:, start:stop])
        for at in range(start, stop):
            values_OD[:, at] = nearest_integer(left_OD[:, at], top_O, largest)[1]
            errors_OG[:, at - start] = (left_OD[:, at] - values_OD[:, at]) / upper_DD[at, at]
            left_OD[:, at:stop] -= errors_OG[:, at - start, None] * upper_DD[at, at:stop]
        left_OD[:, stop:] -= errors_OG @ upper_DD[start:stop, stop:]
    return values_OD


def awq(weight_OD: Tensor, gram_DD: Tensor, to: Format) -> Tensor:
    """The values [O, D] that the codes stand for, shrunk again: of the stretchings |x|^a the one whose outputs are off
    by the least squared error. |x| is the root of the mean square here, and each layer has its own a."""
    size_D = gram_DD.diagonal().clamp(min=0).sqrt()
    size_D = (size_D / size_D.mean().clamp(min=torch.finfo(size_D.dtype).tiny)).clamp(min=1e-4)
    best_OD, least = weight_OD, torch.inf
    for exponent in EXPONENTS:
        stretch_D = size_D**exponent
        stretch_D = stretch_D / (stretch_D.max() * stretch_D.min()).sqrt()
        found_OD = quantised(weight_OD * stretch_D, to).values.float() / stretch_D
        off_OD = found_OD - weight_OD
        error = float(((off_OD @ gram_DD) * off_OD).sum())
        if error < least:
            best_OD, least = found_OD, error
    return best_OD
