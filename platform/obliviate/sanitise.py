"""What an unlearned model has lost of the retain set, taken out of the finished change of its weights (after SAGE,
arXiv:2606.18309): no training, and no word of how the change was made.

Of one linear layer, dW is the change, and the retain texts' inputs X have X^T X = U E U^T, of which the strongest
directions that hold a share of the trace are kept. The new change is the nearest to dW that does little to them:

    min over Z of |Z - dW|^2 + strength sum_k s_k |Z u_k|^2,    Z = dW - dW U diag(strength s / (1 + strength s)) U^T

with s the energy of a direction over the mean energy of all D. A direction of mean energy keeps 1 / (1 + strength) of
the change; strength to infinity takes out all of it, as projected unlearning does while it trains. What is no linear
layer (embeddings, norms, biases, the output layer) keeps its change.

Shapes: O outputs, D inputs of a layer, K directions, N tokens.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from obliviate.arithmetic import combine
from obliviate.directions import Directions, leading
from obliviate.inputs import grams_of
from obliviate.matrices import matrices
from obliviate.prune import measured_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AT_ONCE_BYTES = 4 * 2**30  # of Gram matrices: of more layers, the texts are read again
NOT_MEASURED = "leave sanitisation out"


def sanitised(change_OD: Tensor, retained: Directions, strength: float) -> Tensor:
    """dW with what lies along the retain set's inputs made small."""
    energy_K, vectors_DK = retained
    if not len(energy_K):
        return change_OD
    weight_K = strength * energy_K
    return change_OD - (change_OD @ vectors_DK * (weight_K / (1 + weight_K))) @ vectors_DK.mT


def sanitise(
    original: Path, unlearned: Path, retained: Mapping[str, Directions], strength: float, folder: Path
) -> None:
    """Write to `folder` the model of `unlearned` with its change from `original` sanitised, in its own dtypes; errors
    as of `combine`. `retained` is what `retained_directions` found, by the names of the model's weights."""
    linear = matrices(unlearned)

    def mixed(name: str, tensors: list[Tensor]) -> Tensor:
        after, before = tensors
        matrix = linear.get(name)
        if matrix is None or matrix.weight not in retained:
            return after
        change = sanitised(matrix.rows(after - before), retained[matrix.weight], strength)
        return before + matrix.rows(change)

    combine([unlearned, original], mixed, folder)


def retained_directions(
    model: "PreTrainedModel", texts: Iterable[Sequence[int]], energy: float
) -> dict[str, Directions]:
    """Of each linear layer the strongest directions of its inputs over all tokens of the texts (token ids), their
    energies relative to the mean over all; by the name of its weight, on the CPU.

    A text is read at a time, so that none is padded. Raises UserError for experts that are fused.
    """
    read = list(texts)
    layers = measured_layers(model, NOT_MEASURED)
    inputs = {name.removesuffix(".weight"): each.inputs for name, each in layers.items()}
    found: dict[str, Directions] = {}
    for group in _groups(inputs):
        for module, gram_DD in grams_of(model, read, group).items():
            mean = gram_DD.trace() / len(gram_DD)
            strongest = leading(gram_DD, energy)
            relative_K = strongest.energy_K / mean.clamp(min=torch.finfo(mean.dtype).tiny)
            found[f"{module}.weight"] = Directions(relative_K.cpu(), strongest.vectors_DK.cpu())
    return found


def _groups(inputs: Mapping[str, int]) -> Iterator[dict[str, int]]:
    group: dict[str, int] = {}
    for name, size in inputs.items():
        if group and 4 * (size**2 + sum(each**2 for each in group.values())) > AT_ONCE_BYTES:
            yield group
            group = {}
        group[name] = size
    yield group
