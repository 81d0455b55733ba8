"""Round-to-nearest quantisation, written back as plain weights: a model as whoever deploys it in few bits has it.

What unlearning changed may be smaller than a step of the format, and then rounding brings back what was forgotten
(Zhang et al. 2024, arXiv:2410.16454). The result is an ordinary folder, which every engine reads on any machine and
gives the numbers of weight-only inference, up to the rounding of its kernels.

Shapes: O outputs, D inputs of a layer; G numbers that share a scale. Names: code, an integer or the index of a level;
step, what lies between two codes.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from obliviate.arithmetic import combine
from obliviate.errors import UserError
from obliviate.matrices import matrices

if TYPE_CHECKING:
    from torch import Tensor

Format = Literal["bf16", "fp16", "int8", "int4_g128", "nf4", "fp4"]
FORMATS: tuple[Format, ...] = get_args(Format)
PLAIN = {"bf16": "bfloat16", "fp16": "float16"}  # all floating-point tensors, rounded to these

GROUP, BLOCK = 128, 64  # numbers that share a scale: inputs of an output; numbers of the flattened weight
# The levels of QLoRA (Dettmers et al. 2023, arXiv:2305.14314, appendix E), and the 4-bit floating-point numbers of
# bitsandbytes, divided by the largest of them, 12.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_FP4 = (0.0625, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
FP4 = (*(-each / 12 for each in reversed(_FP4)), 0.0, *(each / 12 for each in _FP4))


class Quantised(NamedTuple):
    """Of a weight [..., O, D]."""

    codes: "Tensor"
    values: "Tensor"  # that the codes stand for, bfloat16


def quantise(source: Path, to: Format, folder: Path, calibrated: "Mapping[str, Tensor] | None" = None) -> None:
    """Write to `folder` the model of `source` (a Hugging Face folder) with its linear layers in a format of few bits;
    `calibrated`: the values of those that are not rounded to the nearest, as `calibrated.calibrated` gives them.

    Those are all but the output layer; the rest of the model is in bfloat16 (bf16 and fp16: in these, all of it), in
    which kernels of these formats multiply. A tensor at a time is in memory. Raises UserError for a model that is
    quantised already, and for weights that float16 does not hold.
    """
    import torch

    linear = matrices(source)

    def changed(name: str, tensors: "list[Tensor]") -> "Tensor":
        (tensor,) = tensors
        if to == "fp16" and not tensor.half().isfinite().all():
            raise UserError(f"model.source: {source}: {name} has numbers that float16 does not hold; leave fp16 out")
        if to in PLAIN or name not in linear:
            return tensor
        if calibrated is not None and (found := calibrated.get(linear[name].weight)) is not None:
            return linear[name].rows(found.float())
        return linear[name].rows(quantised(linear[name].rows(tensor), to).values)

    combine([source], changed, folder, getattr(torch, PLAIN.get(to, "bfloat16")))


def quantised(weight_OD: "Tensor", to: Format) -> Quantised:
    """Of a weight [..., O, D] of finite numbers, in one of the formats of 4 or 8 bits; computed in float32.

    Each group's largest absolute value is rounded to bfloat16, and so are the values: kernels multiply in it. So each
    group holds its largest value exactly, and who quantises the result again changes nothing. Of fused experts each is
    quantised by itself.
    """
    import torch

    if weight_OD.ndim == 2:
        return _CODERS[to](weight_OD.float())
    codes, values = zip(*(quantised(each_OD, to) for each_OD in weight_OD), strict=True)
    return Quantised(torch.stack(codes), torch.stack(values))


def _integers(weight_OD: "Tensor", largest: int, size: int | None) -> Quantised:
    """Symmetric: codes from -largest to largest, a step for each `size` inputs of an output, the last fewer; for all of
    them where there is no size."""
    import torch

    inputs = weight_OD.shape[-1]
    size = size or inputs
    groups_NG = torch.nn.functional.pad(weight_OD, (0, -inputs % size)).unflatten(-1, (-1, size))
    found = nearest_integer(groups_NG, largest_of(groups_NG), largest)
    return Quantised(*(each.flatten(-2)[..., :inputs] for each in found))


def nearest_integer(weight: "Tensor", top: "Tensor", largest: int) -> Quantised:
    """`top`: what the code `largest` stands for."""
    import torch

    codes = (weight / _divisor(top) * largest).round().clamp(-largest, largest)
    return Quantised(codes.to(torch.int8), (codes * top / largest).bfloat16())


def _levels(weight_OD: "Tensor", levels: tuple[float, ...]) -> Quantised:
    """The nearest of a few levels, times the largest absolute value of 64 numbers of the flattened weight."""
    import torch

    count = weight_OD.numel()
    blocks_NG = torch.nn.functional.pad(weight_OD.flatten(), (0, -count % BLOCK)).view(-1, BLOCK)
    top_N1 = largest_of(blocks_NG)
    levels_L = torch.tensor(levels)
    codes_NG = torch.bucketize(blocks_NG / _divisor(top_N1), (levels_L[1:] + levels_L[:-1]) / 2, out_int32=True)
    values_NG = (levels_L[codes_NG] * top_N1).bfloat16()
    codes, values = (each.flatten()[:count].view_as(weight_OD) for each in (codes_NG.to(torch.int8), values_NG))
    return Quantised(codes, values)


def largest_of(groups_NG: "Tensor") -> "Tensor":
    """Of each group the largest absolute value, in bfloat16's precision."""
    return groups_NG.abs().amax(-1, keepdim=True).bfloat16().float()


def _divisor(top_N1: "Tensor") -> "Tensor":
    """Groups of zeros alone stay so."""
    return top_N1.where(top_N1 > 0, 1.0)


# The largest code, and how many inputs of an output share a step; None: all.
INTEGERS: dict[str, tuple[int, int | None]] = {"int8": (127, None), "int4_g128": (7, GROUP)}
_CODERS: dict[str, Callable[["Tensor"], Quantised]] = {
    "int8": lambda weight_OD: _integers(weight_OD, *INTEGERS["int8"]),
    "int4_g128": lambda weight_OD: _integers(weight_OD, *INTEGERS["int4_g128"]),
    "nf4": lambda weight_OD: _levels(weight_OD, NF4),
    "fp4": lambda weight_OD: _levels(weight_OD, FP4),
}
