"""Two objectives, both better when higher: the Pareto front, the area it dominates, and rules that choose a point.

Pure functions of (forget, utility) pairs. Shapes: a list of pairs in, indices into it out.
"""

from collections.abc import Sequence
from math import dist

Pair = tuple[float, float]  # forget, utility


def front(pairs: Sequence[Pair]) -> list[int]:
    """Indices of the pairs that no other dominates, by forget ascending. Of equal pairs all stay.

    One dominates another where it is at least as good in both figures and better in one.
    """
    order = sorted(range(len(pairs)), key=lambda i: (-pairs[i][0], -pairs[i][1]))
    found: list[int] = []
    best: Pair | None = None  # the highest utility so far, and the forget figure it came with
    for index in order:
        forget, utility = pairs[index]
        if best is None or utility > best[1] or (forget, utility) == best:
            found.append(index)
            best = (forget, utility)
    return found[::-1]


def best_first(pairs: Sequence[Pair]) -> list[int]:
    """All indices, by layers: the front, the front of the rest, and so on (Srinivas and Deb 1994).

    Of a layer first the pair that alone dominates the largest area, then always the one farthest from those taken, so
    that the first few of any number are spread over the front (an epsilon-net; Schmucker et al. 2021,
    arXiv:2106.12639).
    """
    order: list[int] = []
    left = list(range(len(pairs)))
    while left:
        layer = [left[place] for place in front([pairs[index] for index in left])]
        left = [index for index in left if index not in layer]
        taken = [max(layer, key=lambda index: pairs[index][0] * pairs[index][1])]
        while len(taken) < len(layer):
            rest = (index for index in layer if index not in taken)
            taken.append(max(rest, key=lambda index: min(dist(pairs[index], pairs[other]) for other in taken)))
        order += taken
    return order


def hypervolume(pairs: Sequence[Pair], reference: Pair = (0.0, 0.0)) -> float:
    """The area that the pairs dominate, above the reference point (Zitzler and Thiele 1999). Exact.

    A pair that is not above the reference in both figures adds nothing.
    """
    area, covered = 0.0, reference[1]
    for forget, utility in sorted(pairs, reverse=True):  # from the most forgotten: each adds a slab above the last
        if forget > reference[0] and utility > covered:
            area += (forget - reference[0]) * (utility - covered)
            covered = utility
    return area


def knee(pairs: Sequence[Pair]) -> int:
    """The point of the front farthest from the line through its ends, with both axes scaled to the front.

    With the ends at (0, 1) and (1, 0) the distance grows with the sum of the two scaled figures (Das 1999: normal
    boundary intersection). Between points that are equally far, such as two ends alone, the more useful one.
    """
    on_front = front(pairs)
    (low, high), (floor, top) = (_range([pairs[i][axis] for i in on_front]) for axis in (0, 1))

    def bulge(index: int) -> tuple[float, float]:
        forget, utility = pairs[index]
        return (forget - low) / ((high - low) or 1) + (utility - floor) / ((top - floor) or 1), utility

    return max(on_front, key=bulge)


def most_forgotten(pairs: Sequence[Pair], utility: float) -> int | None:
    """Of those that keep at least `utility`, the one that forgot most; None where none does."""
    keeping = [i for i, pair in enumerate(pairs) if pair[1] >= utility]
    return max(keeping, key=lambda i: pairs[i], default=None)


def weighted(pairs: Sequence[Pair], forget_weight: float) -> int:
    return max(range(len(pairs)), key=lambda i: forget_weight * pairs[i][0] + (1 - forget_weight) * pairs[i][1])


def _range(values: Sequence[float]) -> Pair:
    return min(values), max(values)
