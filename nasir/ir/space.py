"""Spaces: what an axis runs over. `Atom` (a set of units), `Cat` (one after another), `Prod` (row-major product).

Ops relate spaces (see `ops.py`); resizing is done on atoms, and everything that runs over an atom follows.
Atoms live as long as the inference that made them: identity, not size, says that two axes run over the same units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Index: TypeAlias = NDArray[np.int64]


class Atom:
    """An indivisible set of `size` units, first written by the node `source` (a node id)."""

    __slots__ = ("link", "mixed", "name", "pin", "size", "source")

    def __init__(self, size: int, source: int, pin: str | None = None) -> None:
        self.size = size
        self.source = source
        self.pin = pin  # why it cannot be resized; None when it can
        # label of an op that normalizes over it, multiplies it with itself, or reads it by what writes it elsewhere
        self.mixed: str | None = None
        self.link: Space | None = None  # set when inference found it to be another space
        self.name = ""  # label of the node that writes it; filled when inference ends

    @property
    def resizable(self) -> bool:
        """Whether `Draft.select` may change its size; `pin` says why not."""
        return self.pin is None

    def __repr__(self) -> str:
        return f"Atom({self.name or self.source}: {self.size}{', pinned' if self.pin else ''})"


class Cat:
    """Several spaces one after another."""

    __slots__ = ("parts", "size")

    def __init__(self, parts: tuple[Space, ...]) -> None:
        self.parts = parts
        self.size: int = sum([part.size for part in parts])

    def __repr__(self) -> str:
        return f"Cat{self.parts}"


class Prod:
    """Row-major product; a plain int is a factor of fixed size."""

    __slots__ = ("parts", "size")

    def __init__(self, parts: tuple[Space | int, ...]) -> None:
        self.parts = parts
        self.size: int = prod([size_of(part) for part in parts])

    def __repr__(self) -> str:
        return f"Prod{self.parts}"


Space: TypeAlias = Atom | Cat | Prod
Axis: TypeAlias = Space | int  # a plain int is an axis that cannot be resized


def size_of(axis: Axis) -> int:
    """Number of positions along an axis."""
    return axis if isinstance(axis, int) else axis.size


def resolve(axis: Axis) -> Axis:
    """The canonical form: links followed, nested Cat and Prod flattened, factors of one dropped."""
    if isinstance(axis, Atom):
        end: Axis | None = axis.link
        if end is None:
            return axis
        if end.__class__ is Atom and end.link is None:
            return end
        chain: list[Atom] = []
        end = axis
        while isinstance(end, Atom) and end.link is not None:
            chain.append(end)
            end = end.link
        canonical = end if isinstance(end, Atom) else resolve(end)
        assert not isinstance(canonical, int)
        for atom in chain:
            atom.link = canonical  # path compression
        return canonical
    if isinstance(axis, Cat):
        return _make_cat(axis)
    if isinstance(axis, Prod):
        return _make_prod([resolve(part) for part in axis.parts])
    return axis


def _make_cat(cat: Cat) -> Space:
    # a stack, not recursion: a dense block nests one Cat for each of its layers
    flat: list[Space] = []
    stack: list[Space] = [cat]
    while stack:
        part = stack.pop()
        while isinstance(part, Atom) and part.link is not None:
            part = part.link
        if isinstance(part, Cat):
            stack.extend(reversed(part.parts))
            continue
        whole = resolve(part)
        assert not isinstance(whole, int)
        flat.append(whole)
    return flat[0] if len(flat) == 1 else Cat(tuple(flat))


def _make_prod(parts: Sequence[Axis]) -> Axis:
    flat: list[Space | int] = []
    for part in parts:
        for factor in part.parts if isinstance(part, Prod) else (part,):
            if isinstance(factor, int):
                if factor == 1:
                    continue
                if flat and isinstance(flat[-1], int):
                    flat[-1] = flat[-1] * factor
                    continue
            flat.append(factor)
    if not flat:
        return 1
    return flat[0] if len(flat) == 1 else Prod(tuple(flat))


def atoms_of(axis: Axis) -> Iterator[Atom]:
    """The atoms an axis is made of, links followed, in order."""
    stack: list[Axis] = [axis]
    while stack:
        part = stack.pop()
        while isinstance(part, Atom) and part.link is not None:
            part = part.link
        if isinstance(part, Atom):
            yield part
        elif not isinstance(part, int):
            stack.extend(reversed(part.parts))


def pin(axis: Axis, reason: str) -> None:
    """Forbid resizing of every atom of `axis`; the first reason is kept."""
    for atom in atoms_of(axis):
        atom.pin = atom.pin or reason


def mix(axis: Axis, label: str) -> None:
    """Say that resizing `axis` is never exact, because of the node `label`; the first one is kept."""
    for atom in atoms_of(axis):
        atom.mixed = atom.mixed or label


def positions(axis: Axis, take: Mapping[Atom, Index]) -> Index | None:
    """Old position of each new index along `axis`; None when nothing changes.

    `take` gives, per atom, the kept or repeated indices (int, 0 <= i < atom.size; -1 is a hole, a fresh unit);
    atoms not in it are whole. Prod is row-major. The result has `size(axis after take)` entries.
    """
    if not any(atom in take for atom in atoms_of(axis)):
        return None
    return _positions(axis, take)


def _positions(axis: Axis, take: Mapping[Atom, Index]) -> Index:
    axis = resolve(axis)
    if isinstance(axis, int):
        return np.arange(axis)
    if isinstance(axis, Atom):
        return take.get(axis, np.arange(axis.size))
    if isinstance(axis, Cat):
        pieces, offset = [], 0
        for part in axis.parts:
            piece = _positions(part, take)
            pieces.append(np.where(piece < 0, -1, piece + offset))
            offset += part.size
        return np.concatenate(pieces)
    result = np.zeros(1, dtype=np.int64)
    hole = np.zeros(1, dtype=bool)
    for factor in axis.parts:
        index = _positions(factor, take)
        result = (result[:, None] * size_of(factor) + index[None, :]).reshape(-1)
        hole = (hole[:, None] | (index < 0)[None, :]).reshape(-1)
    return np.where(hole, -1, result)


def positions_after(axis: Axis, take: Mapping[Atom, Index], then: Mapping[Atom, Index]) -> Index:
    """Positions as `positions` gives them, along the axis as it is once `take` is applied, for the selection `then`.

    `then` is keyed by the atoms of `axis` itself and indexes their new units.
    """
    standins: dict[Atom, Atom] = {}

    def rebuilt(part: Axis) -> Axis:
        part = resolve(part)
        if isinstance(part, int):
            return part
        if isinstance(part, Atom):
            return standins.setdefault(part, Atom(size_after(part, take), part.source))
        if isinstance(part, Cat):
            return Cat(tuple([rebuilt(p) for p in part.parts]))  # type: ignore[misc]
        return Prod(tuple([rebuilt(p) for p in part.parts]))

    after = rebuilt(axis)
    return _positions(after, {standins[atom]: index for atom, index in then.items() if atom in standins})


def size_after(axis: Axis, take: Mapping[Atom, Index]) -> int:
    """Size of an axis once `take` is applied."""
    axis = resolve(axis)
    if isinstance(axis, int):
        return axis
    if isinstance(axis, Atom):
        return len(take[axis]) if axis in take else axis.size
    sizes = [size_after(part, take) for part in axis.parts]
    return sum(sizes) if isinstance(axis, Cat) else prod(sizes)
