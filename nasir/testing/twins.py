"""Twins: ops that state the facts of others under another name, and networks of them.

What a pass does follows from facts, so it does to a network of twins what it does to the network itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

from nasir.ir import Graph, Node, op_named
from nasir.ir.op import loaded
from nasir.registry import ops
from nasir.testing.interpreter import REFERENCES

TWIN = "_twin"


@contextmanager
def twin_ops(names: Collection[str]) -> Iterator[None]:
    """Inside, every op of `names` has a twin: the same rule, facts and reference under its name with `TWIN`."""
    made = [f"{name}{TWIN}" for name in names]
    try:
        for name, twin in zip(names, made, strict=True):
            ops.register(twin)(replace(op_named(name), name=twin))
            if name in REFERENCES:
                REFERENCES[twin] = REFERENCES[name]
        yield
    finally:
        for twin in made:
            ops._objects.pop(twin, None)
            loaded.pop(twin, None)
            REFERENCES.pop(twin, None)


def with_twins(graph: Graph, names: Collection[str]) -> Graph:
    """The network with the twins of `names` in their place: ids, labels and regions as they are."""
    return _renamed(graph, {name: f"{name}{TWIN}" for name in names})


def without_twins(graph: Graph) -> Graph:
    """The reverse."""
    twins = {node.op for node in graph.nodes.values() if node.op.endswith(TWIN)}
    return _renamed(graph, {twin: twin.removesuffix(TWIN) for twin in twins})


def _renamed(graph: Graph, names: dict[str, str]) -> Graph:
    nodes = {
        node_id: Node(names.get(node.op, node.op), node.inputs, node.attrs, node.label)
        for node_id, node in graph.nodes.items()
    }
    return replace(graph, nodes=nodes)
