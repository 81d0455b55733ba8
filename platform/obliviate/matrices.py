"""The matrices of a model's linear layers as its files hold them: what is quantised, pruned and compared.

The output layer and the embeddings are none of them, nor are routers that do more than multiply: whoever quantises or
prunes a model leaves these as they are. Shapes: O outputs, D inputs of a layer; fused experts have one more in front.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obliviate import companions
from obliviate.errors import UserError
from obliviate.layout import targets_of_files
from obliviate.linear import linear_weights
from obliviate.models import skeleton
from obliviate.schema import ModelSpec
from obliviate.weights import tensors_in

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Matrix:
    """One tensor of the files, or several experts' in one."""

    weight: str  # the model's parameter that it is, or a part of
    transposed: bool  # stored as [D, O]

    def rows(self, tensor: "Tensor") -> "Tensor":
        """As [..., O, D], and back: what each output reads is a row."""
        return tensor.mT.contiguous() if self.transposed else tensor


def require_plain(config: Mapping[str, Any] | None, model: str) -> None:
    """Raises UserError for the config of a model that is quantised already."""
    if config is not None and "quantization_config" in config:
        raise UserError(
            f"model.source: {model}: is quantised already (its config.json has quantization_config): its files hold no "
            "plain weights; give the model that it was made of"
        )


def matrices(folder: Path) -> dict[str, Matrix]:
    """By their names in the files of a Hugging Face folder, in the order of the layers.

    Raises UserError for a model that is quantised already.
    """
    require_plain(companions.read(folder / companions.CONFIG), str(folder))
    files = tensors_in(folder)
    model = skeleton(ModelSpec(source=str(folder)))
    linear = linear_weights(model)
    found = {}
    for name, target in targets_of_files(model, files).items():
        weight = linear.get(target)
        own = model.get_parameter(target).shape if weight is not None else ()
        if weight is None or (not weight.plain and len(own) == 2):
            continue
        shape = files[name].shape
        transposed = weight.transposed if shape[-2:] == own[-2:] else shape[-1] != weight.inputs
        found[name] = Matrix(target, transposed)
    return found
