"""How wide a branch may be: planes by stage, calibrated so that all branches cost what they replace (RRR-Net)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np

from nasir.branching.parts import outputs_of
from nasir.ir import Atom, Graph, Index, Prod, atoms_of
from nasir.ir.space import Axis, resolve, size_after

Sizes = Mapping[Atom, int]


@dataclass(frozen=True, slots=True)
class Group:
    """The spaces of a stage, or one space outside of all stages; each has `planes` times some factor as its size."""

    name: str
    stage: bool
    planes: int
    spaces: tuple[Atom, ...]


def groups_of(graph: Graph, nodes: Collection[int]) -> tuple[Group, ...]:
    """The resizable spaces that only `nodes` have, by stage, in topological order.

    A stage's planes are the `out` of its template where the width it puts out is a multiple of that, else that width.
    Numbers of groups and of attention heads keep their size.
    """
    inside = set(nodes)
    fixed: set[Atom] = set()
    for port, value in graph.infer.types.items():
        for axis in value.axes:
            fixed.update(atoms_of(axis) if port.node not in inside else _factors(axis))
    members: dict[str, list[Atom]] = {}
    for node_id in nodes:
        for port in outputs_of(graph, node_id):
            for axis in graph.infer.types[port].axes:
                for atom in atoms_of(axis):
                    if atom.resizable and atom not in fixed:
                        fixed.add(atom)
                        members.setdefault(_stage(graph, atom.source) or f"\n{atom.name}", []).append(atom)
    return tuple([_group(graph, name, tuple(atoms)) for name, atoms in members.items()])


def _factors(axis: Axis) -> list[Atom]:
    """Atoms of all factors of a product but the last that is none of fixed size: groups, heads."""
    space = resolve(axis)
    if not isinstance(space, Prod):
        return []
    factors = [part for part in space.parts if not isinstance(part, int)]
    return [atom for part in factors[:-1] for atom in atoms_of(part)]


def _stage(graph: Graph, node_id: int) -> str | None:
    return next((path for path in graph.owners[node_id] if graph.regions[path].kind == "stage"), None)


def _group(graph: Graph, name: str, spaces: tuple[Atom, ...]) -> Group:
    if name.startswith("\n"):
        return Group(spaces[0].name, False, spaces[0].size, spaces)
    _, exit_ = graph.boundary(name)
    width = graph.infer.types[next(outputs_of(graph, exit_))].shape[0]
    template = graph.regions[name].template or {}
    out = dict(template.get("options") or {}).get("out")
    planes = out if type(out) is int and out > 0 and width % out == 0 else width
    return Group(name, True, planes, spaces)


def sizes_of(groups: Sequence[Group], planes: Sequence[int]) -> dict[Atom, int]:
    """Size of every space once the groups have other `planes`: in proportion, rounded down, at least 1."""
    return {
        atom: max(1, atom.size * new // group.planes)
        for group, new in zip(groups, planes, strict=True)
        for atom in group.spaces
    }


def params_of(graph: Graph, nodes: Collection[int], sizes: Sizes) -> int:
    """Parameters of `nodes` with spaces of other sizes."""
    take: dict[Atom, Index] = {atom: np.arange(size) for atom, size in sizes.items()}
    total = 0
    for node_id in nodes:
        for slot in graph.infer.slots[node_id].values():
            if slot.kind == "param":
                count = 1
                for axis in slot.axes:
                    count *= size_after(axis.space, take)
                total += count
    return total


def calibrated(
    graph: Graph, nodes: Collection[int], groups: Sequence[Group], branches: int, budget: int, multiple_of: int = 1
) -> tuple[int, ...] | None:
    """Planes floor(p / sqrt(branches)) - s of each group, with the smallest whole s >= 0 such that `branches` copies
    of `nodes` have at most `budget` parameters; rounded down to multiples of `multiple_of`, one of them at least. None
    where nothing fits.
    """
    start = [isqrt(group.planes**2 // branches) for group in groups]
    for shift in range(max(start, default=0)):
        planes = [
            max(min(multiple_of, group.planes), (first - shift) // multiple_of * multiple_of)
            for first, group in zip(start, groups, strict=True)
        ]
        if branches * params_of(graph, nodes, sizes_of(groups, planes)) <= budget:
            return tuple(planes)
    return None
