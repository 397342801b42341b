"""Alive units (MorphNet): which channels survive a penalty, which blocks have none left, and networks of new widths.

A unit of a space is alive when any of the arrays tied in it says so: MorphNet groups tied layers and takes OR.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nasir.blocks.removal import shortcut_padding
from nasir.ir import Atom, Draft, Graph, Port
from nasir.ir.space import Index, atoms_of

Key = TypeVar("Key", bound=Hashable)
Rows = Callable[[Atom], NDArray[np.float64]]  # [tied arrays, units]
SLACK = 1e-9  # products of a factor and a width that should be whole come out as such


@dataclass(frozen=True, slots=True)
class Alive:
    """Units of one space: the alive ones, and all of them from the strongest to the weakest."""

    mask: NDArray[np.bool_]
    ranking: Index

    @property
    def count(self) -> int:
        """Number of alive units."""
        return int(self.mask.sum())

    def index(self, size: int) -> Index:
        """Which old units make up `size` new ones: the strongest in their old order, then fresh ones (-1)."""
        kept = np.sort(self.ranking[:size])
        return np.concatenate([kept, np.full(size - len(kept), -1, dtype=np.int64)])


def written_below(graph: Graph, labels: Sequence[str]) -> set[Atom]:
    """The spaces that a node labelled by one of `labels`, or below one, writes or runs along."""
    return {
        atom
        for node_id, slots in graph.infer.slots.items()
        if graph.below(node_id, labels)
        for slot in slots.values()
        for axis, role in slot.axes
        if role in ("write", "along")
        for atom in atoms_of(axis)
    }


def alive_units(graph: Graph, rows: Rows, threshold: float, exclude: Sequence[str] = ()) -> dict[Atom, Alive]:
    """The units of every resizable space that something was measured on; alive: above `threshold` in any row.

    Spaces written below a label of `exclude` are left out.
    """
    alive: dict[Atom, Alive] = {}
    barred = written_below(graph, exclude)
    for space in graph.infer.spaces:
        values = rows(space) if space.resizable and space not in barred else np.empty((0, 0))
        if len(values):
            score = values.max(axis=0)
            mask = score > threshold
            alive[space] = Alive(mask, np.lexsort((np.arange(space.size), -score)).astype(np.int64))
    return alive


def dead_blocks(graph: Graph, dead: Iterable[Atom]) -> list[str]:
    """Blocks that hold a space without alive units between their input and output, and that can go."""
    gone: dict[str, None] = {}
    for space in dead:
        for path in graph.owners[space.source]:
            if graph.regions[path].kind != "block" or shortcut_padding(graph, path) != 0:
                continue
            entry, exit_ = graph.boundary(path)
            outside = {
                atom
                for port in (entry, Port(exit_))
                for axis in graph.infer.types[port].axes
                for atom in atoms_of(axis)
            }
            if space not in outside:
                gone.setdefault(path)
    return [block.path for block in graph.blocks if block.path in gone]


def blend(old: int, new: int, share: float) -> int:
    """floor(share * new + (1 - share) * old), the way from `old` to `new` that ResBuilder goes in one step."""
    return floor(share * new + (1.0 - share) * old + SLACK)


def scaled(sizes: Mapping[Key, int], factor: float) -> dict[Key, int]:
    """Every size times `factor`, rounded down, at least 1."""
    return {space: max(1, floor(size * factor + SLACK)) for space, size in sizes.items()}


def resize(draft: Draft, sizes: Mapping[Atom, int], alive: Mapping[Atom, Alive]) -> None:
    """Select the strongest units of each space, and fresh ones where there are not enough."""
    for space, size in sizes.items():
        draft.select(space, alive[space].index(size))
