"""Which spaces make up "the width" of a network: one factor for each channel axis, so that widths scale alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasir.ir.space import Atom, Axis, Prod, atoms_of, resolve

if TYPE_CHECKING:
    from nasir.ir.graph import Graph


def uniform_spaces(graph: Graph) -> list[Atom]:
    """The resizable spaces to scale by one factor, in order of first writer.

    Where a channel axis is a product of several (groups and channels a group, heads and channels a head), only one of
    its factors is among them, so that the axis grows by the factor once: one that is an axis of its own elsewhere,
    else one that nothing normalizes over, else the last.
    """
    alone: set[Atom] = set()
    products: dict[tuple[Atom, ...], None] = {}
    for value in graph.infer.types.values():
        for axis in value.axes:
            _sort(axis, alone, products)
    chosen: set[Atom] = set()
    held: set[Atom] = set()
    for atoms in products:
        free = [atom for atom in dict.fromkeys(atoms) if atom.resizable and atom not in held]
        kept = [atom for atom in free if atom in chosen] or sorted(
            free, key=lambda atom: (atom in alone, not atom.mixed, atoms.index(atom))
        )[-1:]
        chosen.update(kept)
        held.update(atom for atom in free if atom not in kept)
    return [space for space in graph.infer.spaces if space.resizable and space not in held]


def _sort(axis: Axis, alone: set[Atom], products: dict[tuple[Atom, ...], None]) -> None:
    """Note the atoms that are an axis, or a part of one, by themselves, and the products of several."""
    axis = resolve(axis)
    if isinstance(axis, Atom):
        alone.add(axis)
    elif isinstance(axis, Prod):
        atoms = tuple(atoms_of(axis))
        if len(atoms) > 1:
            products.setdefault(atoms)
        else:
            alone.update(atoms)
    elif not isinstance(axis, int):
        for part in axis.parts:
            _sort(part, alone, products)
