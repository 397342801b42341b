"""Layered layout of a small directed acyclic graph, top to bottom (Sugiyama's scheme, the short version).

Layers by longest path; edges that skip layers run through bends in the layers between; order by barycentre; positions
by pulling each item towards its neighbours while keeping items of a layer apart.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Layout", "layered"]

SWEEPS = 6
BEND = 18.0  # width kept free for an edge that passes a layer


@dataclass(frozen=True, slots=True)
class Layout:
    """Centres: x from 0 to `width`, layer number from 0. `paths` has one list of (x, layer) an edge, ends included."""

    place: Mapping[Hashable, tuple[float, int]]
    paths: tuple[tuple[tuple[float, int], ...], ...]
    width: float
    layers: int


def layered(widths: Mapping[Hashable, float], edges: Sequence[tuple[Hashable, Hashable]], gap: float = 16.0) -> Layout:
    """Lay out items of the given widths. `widths` is in topological order, and every edge goes forward in it."""
    level = _levels(list(widths), edges)
    size: dict[Hashable, float] = dict(widths)
    chains = [_chain(number, edge, level, size) for number, edge in enumerate(edges)]
    rows: list[list[Hashable]] = [[] for _ in range(max(level.values(), default=-1) + 1)]
    for item in size:
        rows[level[item]].append(item)
    above: dict[Hashable, list[Hashable]] = {item: [] for item in size}
    below: dict[Hashable, list[Hashable]] = {item: [] for item in size}
    for chain in chains:
        for upper, lower in pairwise(chain):
            above[lower].append(upper)
            below[upper].append(lower)
    _order(rows, above, below)
    x = _positions(rows, size, above, below, gap)
    left = min((x[item] - size[item] / 2 for item in x), default=0.0)
    right = max((x[item] + size[item] / 2 for item in x), default=0.0)
    place = {item: (x[item] - left, level[item]) for item in widths}
    paths = tuple(tuple((x[item] - left, level[item]) for item in chain) for chain in chains)
    return Layout(place, paths, right - left, len(rows))


def _levels(items: Sequence[Hashable], edges: Sequence[tuple[Hashable, Hashable]]) -> dict[Hashable, int]:
    readers: dict[Hashable, list[Hashable]] = {item: [] for item in items}
    for source, target in edges:
        readers[source].append(target)
    level = dict.fromkeys(items, 0)
    for item in items:
        for reader in readers[item]:
            level[reader] = max(level[reader], level[item] + 1)
    return level


def _chain(
    number: int, edge: tuple[Hashable, Hashable], level: dict[Hashable, int], size: dict[Hashable, float]
) -> list[Hashable]:
    source, target = edge
    chain: list[Hashable] = [source]
    for row in range(level[source] + 1, level[target]):
        bend = ("bend", number, row)
        level[bend], size[bend] = row, BEND
        chain.append(bend)
    return [*chain, target]


def _order(
    rows: list[list[Hashable]], above: Mapping[Hashable, list[Hashable]], below: Mapping[Hashable, list[Hashable]]
) -> None:
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for index in range(len(rows)) if down else reversed(range(len(rows))):
            near = index - 1 if down else index + 1
            if not 0 <= near < len(rows):
                continue
            rank = {item: position for position, item in enumerate(rows[near])}
            own = {item: position for position, item in enumerate(rows[index])}

            def weight(
                item: Hashable,
                rank: Mapping[Hashable, int] = rank,
                own: Mapping[Hashable, int] = own,
                links: Mapping[Hashable, list[Hashable]] = above if down else below,
            ) -> tuple[float, int]:
                places = [rank[other] for other in links[item] if other in rank]
                return (sum(places) / len(places) if places else float(own[item]), own[item])

            rows[index].sort(key=weight)


def _positions(
    rows: Sequence[Sequence[Hashable]],
    size: Mapping[Hashable, float],
    above: Mapping[Hashable, list[Hashable]],
    below: Mapping[Hashable, list[Hashable]],
    gap: float,
) -> dict[Hashable, float]:
    x: dict[Hashable, float] = {}
    for row in rows:  # the first of the widest items at 0 in every row, so that a chain is straight from the start
        _spread(row, dict.fromkeys(row, 0.0), x, size, gap)
    for _ in range(SWEEPS):
        for row in rows:
            wish = {item: _pull(item, x, size, above, below) for item in row}
            _spread(row, wish, x, size, gap)
    return x


def _pull(
    item: Hashable,
    x: Mapping[Hashable, float],
    size: Mapping[Hashable, float],
    above: Mapping[Hashable, list[Hashable]],
    below: Mapping[Hashable, list[Hashable]],
) -> float:
    near = [*above[item], *below[item]]
    solid = [other for other in near if not isinstance(other, tuple)] or near  # boxes line up, bends give way
    return sum(x[other] for other in solid) / len(solid) if solid else x[item]


def _spread(
    row: Sequence[Hashable],
    wish: Mapping[Hashable, float],
    x: dict[Hashable, float],
    size: Mapping[Hashable, float],
    gap: float,
) -> None:
    """Positions nearest the wishes that keep the row apart: the boxes first, then the bends around them."""
    anchor = max(range(len(row)), key=lambda index: size[row[index]], default=0)
    for index in range(anchor, len(row)):
        item = row[index]
        x[item] = wish[item]
        if index > anchor:
            left = row[index - 1]
            x[item] = max(wish[item], x[left] + (size[left] + size[item]) / 2 + gap)
    for index in range(anchor - 1, -1, -1):
        item, right = row[index], row[index + 1]
        x[item] = min(wish[item], x[right] - (size[right] + size[item]) / 2 - gap)
