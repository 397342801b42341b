"""Which entry of a weight is which through rewrites: coordinates of one space that all networks of a run share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nasir.ir.source import AxisTake, Key, Source, Stack, Take
from nasir.ir.structure import Structure
from nasir.transfer.plan import TransferPlan

Numbers: TypeAlias = NDArray[np.int64]
FRESH = -1


@dataclass(frozen=True, slots=True)
class Coordinates:
    """`of`: for each learned weight of a network an array of its shape with the number of each entry; `count`: numbers
    given out so far in the run, those of weights that are gone included."""

    of: Mapping[Key, Numbers]
    count: int

    @classmethod
    def first(cls, graph: Structure) -> Coordinates:
        """Those of the network that a run begins with: 0, 1, ..."""
        fresh = {key: np.full(shape, FRESH) for key, shape in _learned(graph).items()}
        return _numbered(fresh, 0)

    def after(self, plan: TransferPlan, graph: Structure) -> Coordinates:
        """Those of the network `graph` that `plan` leads to.

        An entry that is kept, moved or rescaled keeps its number. New ones get a new number; so does one that is
        computed from several, and every copy of an entry but the first.
        """
        kept: dict[Key, Numbers] = {}
        moved: dict[Key, Numbers] = {}
        for key, shape in _learned(graph).items():
            source = plan.sources.get(key)
            if source is None and key in self.of:
                kept[key] = self.of[key]
            else:
                moved[key] = np.full(shape, FRESH) if source is None else self._taken(source, shape)
        return _numbered({**kept, **moved}, self.count)

    def _taken(self, source: Source, shape: tuple[int, ...]) -> Numbers:
        if isinstance(source, Take) and source.key in self.of:
            numbers = self.of[source.key]
            for number, axis in enumerate(source.axes):
                if axis is not None:
                    numbers = _along(numbers, number, axis)
            return numbers
        if isinstance(source, Stack):
            sizes = [self._taken(part, ()) for part in source.parts]
            return np.full(shape, FRESH) if any(not size.ndim for size in sizes) else np.concatenate(sizes, source.axis)
        return np.full(shape, FRESH)


def _along(numbers: Numbers, axis: int, take: AxisTake) -> Numbers:
    taken = np.take(numbers, np.maximum(take.index, 0), axis)
    taken[(slice(None),) * axis + (take.index < 0,)] = FRESH
    return taken


def _learned(graph: Structure) -> dict[Key, tuple[int, ...]]:
    slots = graph.infer.slots
    return {
        Key(node, name): slot.shape
        for node in graph.order
        for name, slot in slots.get(node, {}).items()
        if slot.kind == "param"
    }


def _numbered(arrays: Mapping[Key, Numbers], count: int) -> Coordinates:
    """Give out new numbers from `count` on: for fresh entries, and for repeated ones."""
    flat = np.concatenate([numbers.ravel() for numbers in arrays.values()]) if arrays else np.empty(0, np.int64)
    first = np.zeros(len(flat), bool)
    first[np.unique(flat, return_index=True)[1]] = True
    new = ~first | (flat == FRESH)
    flat[new] = np.arange(count, count + np.count_nonzero(new))
    ends = np.cumsum([numbers.size for numbers in arrays.values()])
    parts = np.split(flat, ends[:-1]) if arrays else []
    of = {key: part.reshape(numbers.shape) for (key, numbers), part in zip(arrays.items(), parts, strict=True)}
    return Coordinates(of, count + int(np.count_nonzero(new)))
