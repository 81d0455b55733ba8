"""ERASE: in-context examples that can be forgotten exactly (arXiv:2402.00751), by quantised k-means (Ginart et al.
2019, arXiv:1907.05012, algorithm 1).

A task is taught by k examples in the prompt instead of by training: those nearest to the centroids of all examples'
embeddings. After each iteration a centroid is rounded to a lattice of spacing epsilon with a random phase, so that one
example more or less moves it the less often, the wider the lattice and the larger its cluster. To forget an example is
then to check, iteration by iteration, that no rounded centroid moves without it; if one does, the selection is made
anew.

Exactly the selection that would have been made without the example comes of it, in either case: embeddings are rounded
to integers once, so that sums lose an example without rounding; each example draws its own place in the order of first
centroids, and each iteration its own phase, from the seed. Algorithm 1's correction of small clusters is left out: it
makes forgetting cheaper, not different.

Shapes: N examples, K centroids, D dimensions of an embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import cast

import numpy as np
from numpy.typing import NDArray

UNIT = 2.0**-24  # an embedding's components are whole multiples of it
SELDOM = 0.1  # share of the examples that may move a centroid, where the lattice is chosen for that
WIDEST = 0.5  # lattice that is chosen: beyond it, centroids of unit vectors say more of the lattice than of the data
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Settings:
    examples: int  # K
    epsilon: float | None  # spacing of the lattice, in the embeddings' own unit (unit vectors); None: `spacing`
    iterations: int
    seed: int


def spacing(examples: int, dimensions: int, settings: Settings) -> float:
    """The lattice on which one of the examples moves a centroid with a chance of SELDOM, and WIDEST at most.

    One of n examples of a cluster moves its mean by about 1/n in length and sqrt(D)/n over all dimensions, each of
    which crosses a lattice of random phase with a chance of that way over epsilon; n is N/K, and there are as many
    lattices as iterations. N counts as the power of two nearest to it: what is chosen hardly ever changes when examples
    go, and when it does the selection is made anew, so that it stays the one without them.
    """
    if settings.epsilon is not None:
        return settings.epsilon
    size = 2.0 ** round(np.log2(examples)) / settings.examples
    return float(min(WIDEST, settings.iterations * np.sqrt(dimensions) / (size * SELDOM)))


@dataclass
class _Iteration:
    """What one iteration assigned, and what it made of it."""

    cluster_N: dict[str, int]  # example -> its centroid
    sums_KD: Integers
    counts_K: Integers
    centroids_KD: Floats  # rounded


@dataclass
class Work:
    """What choosing and forgetting have cost."""

    distances: int = 0  # of an embedding to a centroid
    forgotten: int = 0
    redone: int = 0  # of those forgotten, how many moved a centroid


class Selection:
    """The examples chosen, and what is needed to forget one. `embeddings`: example -> [D]."""

    def __init__(self, embeddings: Mapping[str, Floats], settings: Settings) -> None:
        self.work = Work()
        self._settings = settings
        self._first: tuple[str, ...] = ()  # examples that the first centroids are
        self._iterations: list[_Iteration] = []
        self._points: dict[str, Integers] = {
            name: np.rint(np.asarray(vector) / UNIT).astype(np.int64) for name, vector in embeddings.items()
        }
        self._run()

    @property
    def chosen(self) -> tuple[str, ...]:
        """Of each centroid the nearest example that no centroid before it has; in the order of the centroids."""
        if not self._points:
            return ()
        names = sorted(self._points)
        distances_NK = _squared_distances(self._matrix(names), self._iterations[-1].centroids_KD)
        found: list[str] = []
        for column in distances_NK.T:
            order = np.lexsort((np.arange(len(names)), column))
            free = next((names[i] for i in order if names[i] not in found), None)
            if free is not None:
                found.append(free)
        return tuple(found)

    def forget(self, name: str) -> bool:
        """Whether the selection had to be made anew. Afterwards nothing of the example is left."""
        moved = self.moves(name)
        point = self._points.pop(name)
        self.work.forgotten += 1
        if moved:
            self.work.redone += 1
            self._run()
        else:
            for each in self._iterations:
                cluster = each.cluster_N.pop(name)
                each.sums_KD[cluster] -= point
                each.counts_K[cluster] -= 1
        return moved

    def moves(self, name: str) -> bool:
        """Whether the selection would be made anew without the example."""
        if name in self._first or self._spacing(1) != self._spacing(0):
            return True
        point = self._points[name]
        return any(_moves(each, name, point, self._lattice(t)) for t, each in enumerate(self._iterations))

    @property
    def epsilon(self) -> float:
        """Spacing of the lattice."""
        return self._spacing(0)

    def _spacing(self, fewer: int) -> float:
        size = len(next(iter(self._points.values())))
        return spacing(max(1, len(self._points) - fewer), size, self._settings)

    def _run(self) -> None:
        names = sorted(self._points)
        self._iterations = []
        self._first = tuple(sorted(names, key=self._priority)[: self._settings.examples])
        if not names:
            return
        centroids_KD = self._matrix(self._first)
        points_ND = self._matrix(names)
        for t in range(self._settings.iterations):
            nearest_N = _squared_distances(points_ND, centroids_KD).argmin(-1)
            self.work.distances += points_ND.shape[0] * centroids_KD.shape[0]
            sums_KD = np.zeros(centroids_KD.shape, dtype=np.int64)
            for name, cluster in zip(names, nearest_N, strict=True):
                sums_KD[cluster] += self._points[name]
            counts_K = np.bincount(nearest_N, minlength=len(centroids_KD)).astype(np.int64)
            centroids_KD = _rounded(sums_KD, counts_K, centroids_KD, self._lattice(t))
            clusters = dict(zip(names, nearest_N.tolist(), strict=True))
            self._iterations.append(_Iteration(clusters, sums_KD, counts_K, centroids_KD))

    def _matrix(self, names: Sequence[str]) -> Floats:
        return cast(Floats, np.stack([self._points[name] for name in names]) * UNIT)

    def _priority(self, name: str) -> bytes:
        """Each example's own place among the first centroids, whatever others there are."""
        return blake2b(f"{self._settings.seed}:{name}".encode(), digest_size=16).digest()

    def _lattice(self, iteration: int) -> tuple[float, Floats]:
        """Spacing and random phase [D] of an iteration."""
        size = len(next(iter(self._points.values())))
        phase_D = np.random.default_rng([self._settings.seed, iteration]).uniform(-0.5, 0.5, size)
        return self._spacing(0), phase_D


def _rounded(sums_KD: Integers, counts_K: Integers, before_KD: Floats, lattice: tuple[float, Floats]) -> Floats:
    """The means, on the lattice; an empty cluster keeps its centroid."""
    epsilon, phase_D = lattice
    means_KD = sums_KD * UNIT / np.maximum(counts_K, 1)[:, None]
    on_lattice_KD = epsilon * (phase_D + np.rint(means_KD / epsilon - phase_D))
    return np.where(counts_K[:, None] > 0, on_lattice_KD, before_KD)


def _moves(iteration: _Iteration, name: str, point: Integers, lattice: tuple[float, Floats]) -> bool:
    """Whether the example's centroid is another one without it. Takes as long for many examples as for few."""
    cluster = iteration.cluster_N[name]
    one = slice(cluster, cluster + 1)
    if iteration.counts_K[cluster] == 1:
        return True
    before_1D = iteration.centroids_KD[one]
    again_1D = _rounded(iteration.sums_KD[one] - point, iteration.counts_K[one] - 1, before_1D, lattice)
    return not np.array_equal(again_1D, before_1D)


def _squared_distances(points_ND: Floats, centroids_KD: Floats) -> Floats:
    """[N, K], each pair by itself, so that it does not depend on which others there are."""
    columns = [np.square(points_ND - centroid_D).sum(-1, dtype=np.float64) for centroid_D in centroids_KD]
    found: Floats = np.stack(columns, axis=-1)
    return found


@dataclass(frozen=True)
class HolisticCost:
    """What it costs to adapt a model, to forget, and to answer (arXiv:2402.00751, section 3), in floating-point
    operations: examples in the prompt are forgotten for next to nothing and paid for with every question.

    A forward pass takes 2 operations for each parameter and token, training 6.
    """

    parameters: int
    prompt_tokens: float  # of the examples, in front of every question
    questions_per_request: float  # asked between one request to forget and the next
    unlearning: float  # operations of forgetting one example

    @property
    def inference(self) -> float:
        """Operations that the examples add between two requests."""
        return 2.0 * self.parameters * self.prompt_tokens * self.questions_per_request

    @property
    def total(self) -> float:
        return self.unlearning + self.inference

    def retraining(self, tokens: float, epochs: float, shards: int = 1) -> float:
        """The same without examples in the prompt: fine-tuning again without the example, on one of `shards` equal
        parts of the data (SISA, arXiv:1912.03817; exact with one as well)."""
        return 6.0 * self.parameters * tokens * epochs / shards

    def break_even(self, retraining: float) -> float | None:
        """Questions between two requests at which both cost the same; with fewer, examples in the prompt are cheaper.
        None where forgetting alone costs more already."""
        spare = retraining - self.unlearning
        return None if spare < 0 else spare / (2.0 * self.parameters * self.prompt_tokens)
