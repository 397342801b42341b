"""Cost of a network whose spaces have other sizes, without building it: for searches over widths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

from nasir.ir.graph import Graph
from nasir.ir.infer import mirrored
from nasir.ir.op import op_named
from nasir.ir.space import Atom, Axis, Cat, atoms_of, resolve
from nasir.ir.types import Port


class Sized(NamedTuple):
    """Parameters and multiply-accumulates, as in `Cost`."""

    params: int
    macs: int


class Sizing:
    """Sizes of the spaces of `graph`, and what a network of these sizes costs; they begin as they are.

    Only nodes that a changed space touches are counted again.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.sizes: dict[Atom, int] = {}  # where they differ from the graph's
        self._touched: dict[Atom, list[int]] = {}
        known = graph.costs
        self._nodes = {node_id: Sized(cost.params, cost.macs) for node_id, cost in known.items()}
        self._total = Sized(sum(c.params for c in self._nodes.values()), sum(c.macs for c in self._nodes.values()))
        typing = graph.infer
        for node_id, node in graph.nodes.items():
            axes: list[Axis] = [axis.space for slot in typing.slots[node_id].values() for axis in slot.axes]
            if op_named(node.op).macs is not None:
                axes += [axis for port in (*node.inputs, Port(node_id)) for axis in typing.types[port].axes]
                axes += typing.mirrors.get(node_id, {}).values()
            for atom in dict.fromkeys(atom for axis in axes for atom in atoms_of(axis)):
                self._touched.setdefault(atom, []).append(node_id)

    def cost(self, sizes: Mapping[Atom, int]) -> Sized:
        """Cost with these sizes in place of the present ones."""
        return self._changed({**self.sizes, **sizes}, sizes)[0]

    def with_size(self, atom: Atom, size: int) -> Sized:
        """Cost with one more size changed."""
        return self.cost({atom: size})

    def move(self, sizes: Mapping[Atom, int]) -> None:
        """Make these the present sizes."""
        merged = {**self.sizes, **sizes}
        self._total, changed = self._changed(merged, sizes)
        self._nodes.update(changed)
        self.sizes = merged

    def _changed(self, sizes: dict[Atom, int], atoms: Iterable[Atom]) -> tuple[Sized, dict[int, Sized]]:
        changed: dict[int, Sized] = {}
        params, macs = self._total
        for atom in atoms:
            if sizes.get(atom, atom.size) == self.sizes.get(atom, atom.size):
                continue
            for node_id in self._touched.get(atom, ()):
                if node_id not in changed:
                    before = self._nodes[node_id]
                    after = changed[node_id] = self._count(node_id, sizes)
                    params += after.params - before.params
                    macs += after.macs - before.macs
        return Sized(params, macs), changed

    def _count(self, node_id: int, sizes: Mapping[Atom, int]) -> Sized:
        typing, node = self.graph.infer, self.graph.nodes[node_id]
        params = 0
        for slot in typing.slots[node_id].values():
            if slot.kind == "param":
                entries = 1
                for space, _ in slot.axes:
                    entries *= size_under(space, sizes)
                params += entries
        definition = op_named(node.op)
        if definition.macs is None:
            return Sized(params, 0)
        shapes = [
            typing.types[port].over(tuple([size_under(axis, sizes) for axis in typing.types[port].axes]))
            for port in (*node.inputs, Port(node_id))
        ]
        attrs = mirrored(node.attrs, typing.mirrors.get(node_id, {}), partial(size_under, sizes=sizes))
        return Sized(params, definition.macs_of(attrs, tuple(shapes[:-1]), shapes[-1]))


def size_under(axis: Axis, sizes: Mapping[Atom, int]) -> int:
    """Size of an axis when its atoms have `sizes`; atoms that are not among them keep theirs."""
    axis = resolve(axis)
    if isinstance(axis, int):
        return axis
    if isinstance(axis, Atom):
        return sizes.get(axis, axis.size)
    if isinstance(axis, Cat):
        return sum([size_under(part, sizes) for part in axis.parts])
    size = 1
    for part in axis.parts:
        size *= size_under(part, sizes)
    return size
