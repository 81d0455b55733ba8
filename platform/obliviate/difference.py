"""How far the weights of two states of one model lie apart, layer by layer: what can be known without running either.

Of one matrix W and its change dW: the share of a format's codes that differ, and what is left of the change, along
itself, when both are quantised: <Q(W + dW) - Q(W), dW> / |dW|_F^2. That is 1 on average even where few codes differ,
because each that does is a whole step further on; it is 0 where quantising undoes the change, as it may where the
weights of W lie on the format's own levels. Beside them |dW|_F / |W|_F, |dW|_2 / |W|_2, and the stable rank of the
change, |dW|_F^2 / |dW|_2^2: how many directions it has, weighted by their strength, at most its rank.

Shapes: E experts, O outputs, D inputs of a layer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

from obliviate.arithmetic import require_alike
from obliviate.matrices import matrices
from obliviate.quantise import Format, quantised
from obliviate.weights import tensors_in

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 1e-3  # squared, the relative error of the squared singular value that is found


@dataclass(frozen=True)
class Norms:
    frobenius: float
    spectral: float  # the largest singular value; of fused experts, the largest of all


@dataclass(frozen=True)
class Change:
    """Of one matrix of the files, or of several."""

    weights: int
    recoded: Mapping[Format, int]  # weights whose code is another
    along: Mapping[Format, float]  # <Q(W + dW) - Q(W), dW>
    before: Norms
    change: Norms

    def recoded_share(self, to: Format) -> float:
        return self.recoded[to] / self.weights

    def kept(self, to: Format) -> float | None:
        """What is left of the change, along itself, in a format; None where nothing changed."""
        return self.along[to] / self.change.frobenius**2 if self.change.frobenius else None

    @property
    def frobenius(self) -> float | None:
        """Of the change, relative; None where there was nothing."""
        return self.change.frobenius / self.before.frobenius if self.before.frobenius else None

    @property
    def spectral(self) -> float | None:
        return self.change.spectral / self.before.spectral if self.before.spectral else None

    @property
    def stable_rank(self) -> float | None:
        """None where nothing changed."""
        return (self.change.frobenius / self.change.spectral) ** 2 if self.change.spectral else None


def changes(original: Path, other: Path, codes: Sequence[Format]) -> dict[str, Change]:
    """Of every linear layer but the output layer, by its name in the files of the folders; one of each is in memory.
    `codes`: formats of 4 or 8 bits.

    Raises UserError where the two are no states of one model, or are quantised already.
    """
    before, after = tensors_in(original), tensors_in(other)
    require_alike(other, after, original, before)
    found = {}
    for name, matrix in matrices(original).items():
        old, new = (matrix.rows(side[name].read().float()) for side in (before, after))
        both = {to: (quantised(old, to), quantised(new, to)) for to in codes}
        found[name] = Change(
            old.numel(),
            {to: int((one.codes != two.codes).sum()) for to, (one, two) in both.items()},
            {to: _dot(two.values.float() - one.values.float(), new - old) for to, (one, two) in both.items()},
            norms(old),
            norms(new - old),
        )
    return found


def total(parts: Iterable[Change]) -> Change:
    """As if the matrices lay one after the other along the diagonal of one."""
    listed = list(parts)

    def joined(norms: Sequence[Norms]) -> Norms:
        return Norms(sqrt(sum(each.frobenius**2 for each in norms)), max(each.spectral for each in norms))

    return Change(
        sum(each.weights for each in listed),
        {to: sum(each.recoded[to] for each in listed) for to in listed[0].recoded},
        {to: sum(each.along[to] for each in listed) for to in listed[0].along},
        joined([each.before for each in listed]),
        joined([each.change for each in listed]),
    )


def norms(weight_EOD: "Tensor") -> Norms:
    """Of a matrix, or of several on top of each other."""
    each_OD = weight_EOD if weight_EOD.ndim == 3 else weight_EOD[None]
    return Norms(float(weight_EOD.double().norm()), max(_spectral(one_OD) for one_OD in each_OD))


def _dot(one: "Tensor", two: "Tensor") -> float:
    return float((one.double() * two.double()).sum())


def _spectral(weight_OD: "Tensor") -> float:
    """By Lanczos iterations: all singular values of a large model's matrix would take minutes."""
    import numpy as np
    from scipy.sparse.linalg import svds

    if min(weight_OD.shape) == 1 or not weight_OD.any():
        return float(weight_OD.double().norm())
    start = np.random.default_rng(0).standard_normal(min(weight_OD.shape))
    found = svds(weight_OD.numpy(), k=1, tol=TOLERANCE, v0=start, return_singular_vectors=False)
    return float(found[0])
