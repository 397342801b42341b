"""Nodes whose gradient CUDA sums up in no fixed order: what `deterministic: true` cannot have there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from nasir.ir.graph import Graph
from nasir.ir.op import op_named
from nasir.ir.types import Port


class Unordered(NamedTuple):
    """A node, what is wrong with it (node and sizes named), and what to do about it."""

    node: int
    text: str
    remedy: str


def unordered(graph: Graph) -> Iterator[Unordered]:
    """The nodes that CUDA cannot train deterministically, inputs first; see `OpDef.unordered`.

    A node that has no weight, nor one before it, has no gradient at all.
    """
    types = graph.infer.types
    learns: set[int] = set()  # nodes that have a weight, or one before them
    for node_id in graph.order:
        node = graph.nodes[node_id]
        weighted = any(slot.kind == "param" for _, slot in graph.weights(node_id).values())
        if not weighted and learns.isdisjoint(port.node for port in node.inputs):
            continue
        learns.add(node_id)
        says = op_named(node.op).unordered
        fault = says and says(node.attrs, tuple([types[port] for port in node.inputs]), types[Port(node_id)])
        if fault:
            reason, remedy = fault
            text = f"{node.op} '{node.label}' {reason}, and CUDA has no deterministic gradient for that"
            yield Unordered(node_id, text, f"{remedy}, or set `deterministic: false` or `device: cpu`")
