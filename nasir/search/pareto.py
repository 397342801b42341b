"""Pareto fronts and the volume they dominate. Less is better everywhere: turn signs before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

__all__ = ["hypervolume", "hypervolumes", "non_dominated"]

Point = Sequence[float]


def _covers(first: Point, other: Point) -> bool:
    """Whether `first` is nowhere worse than `other`."""
    return all(a <= b for a, b in zip(first, other, strict=True))


def non_dominated(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other one dominates, in their order; of equal points the first."""
    kept: list[int] = []
    for index in sorted(range(len(points)), key=lambda index: (*points[index], index)):
        # in this order a point can only be dominated, or repeated, by one that came before
        if not any(_covers(points[known], points[index]) for known in kept):
            kept.append(index)
    return sorted(kept)


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The volume between the points and a reference that they dominate: 0 for none.

    The exclusive volumes of the points, added up (the WFG algorithm: While, Bradstreet and Barone, 2012).
    """
    front = [points[index] for index in non_dominated(points)]
    return sum(_exclusive(point, front[index + 1 :], reference) for index, point in enumerate(front))


def _exclusive(point: Point, others: Sequence[Point], reference: Point) -> float:
    """The volume that `point` dominates and none of the others does."""
    own = math.prod(max(0.0, edge - value) for value, edge in zip(point, reference, strict=True))
    limited = [tuple(map(max, point, other)) for other in others]
    return own - hypervolume(limited, reference) if limited and own else own


def hypervolumes(points: Iterable[Point], reference: Point) -> Iterator[float]:
    """The hypervolume after each of the points has come."""
    front: list[Point] = []
    volume = 0.0
    for point in points:
        if not any(_covers(known, point) for known in front):
            volume += _exclusive(point, front, reference)
            front = [known for known in front if not _covers(point, known)] + [point]
        yield volume
