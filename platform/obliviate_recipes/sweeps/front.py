"""Two objectives or three, all better when higher: the Pareto front, what it dominates, and rules that choose a point.

Pure functions of (forget, utility) pairs, or of (forget, utility, survives). Shapes: a list of points in, indices into
it out.
"""

from collections.abc import Sequence
from math import dist, prod

Pair = tuple[float, float]  # forget, utility
Figures = tuple[float, ...]  # with robustness a third: what survives attacks


def front(points: Sequence[Figures]) -> list[int]:
    """Indices of the points that no other dominates, by forget ascending. Of equal ones all stay.

    One dominates another where it is at least as good in all figures and better in one.
    """

    def dominated(mine: Figures) -> bool:
        return any(other != mine and all(o >= m for o, m in zip(other, mine, strict=True)) for other in points)

    return sorted((index for index, point in enumerate(points) if not dominated(point)), key=lambda i: points[i])


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


def hypervolume(points: Sequence[Figures], reference: Figures = (0.0, 0.0, 0.0)) -> float:
    """The area, or volume, that the points dominate above the reference point (Zitzler and Thiele 1999). Exact.

    By slabs along the last figure: each is as thick as the step to the next lower value, and as large as what the
    points that reach it dominate in the others. A point that is not above the reference in every figure adds nothing.
    """
    if not points:
        return 0.0
    last = len(points[0]) - 1
    if last < 0:
        return 1.0
    levels = sorted({point[last] for point in points if point[last] > reference[last]}, reverse=True)
    volume = 0.0
    for level, below in zip(levels, [*levels[1:], reference[last]], strict=False):
        volume += (level - below) * hypervolume([point[:last] for point in points if point[last] >= level], reference)
    return volume


def knee(points: Sequence[Figures]) -> int:
    """The point of the front farthest from the line (or plane) through its ends, with all axes scaled to the front.

    With the ends at (0, 1) and (1, 0) the distance grows with the sum of the scaled figures (Das 1999: normal
    boundary intersection). Between points that are equally far, such as two ends alone, the more useful one.
    """
    on_front = front(points)
    ranges = [_range([points[i][axis] for i in on_front]) for axis in range(len(points[0]))]

    def bulge(index: int) -> tuple[float, float]:
        scaled = ((value - low) / ((high - low) or 1) for value, (low, high) in zip(points[index], ranges, strict=True))
        return sum(scaled), points[index][1]

    return max(on_front, key=bulge)


def lasting(point: Figures) -> float:
    """What is forgotten; of three figures, what is forgotten and survives."""
    forget, _, *survives = point
    return forget * prod(survives)


def most_forgotten(points: Sequence[Figures], utility: float) -> int | None:
    """Of those that keep at least `utility`, the one that forgot most for good; None where none does."""
    keeping = [i for i, point in enumerate(points) if point[1] >= utility]
    return max(keeping, key=lambda i: (lasting(points[i]), points[i][1]), default=None)


def weighted(points: Sequence[Figures], forget_weight: float) -> int:
    return max(
        range(len(points)), key=lambda i: forget_weight * lasting(points[i]) + (1 - forget_weight) * points[i][1]
    )


def _range(values: Sequence[float]) -> Pair:
    return min(values), max(values)
