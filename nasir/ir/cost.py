"""What a network costs: parameters, multiply-accumulates and bytes, for one sample.

Batch normalization, activations and pooling count as no multiply-accumulates; `OpDef.macs` says which ops count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from nasir.ir.op import op_named
from nasir.ir.types import Port

if TYPE_CHECKING:
    from nasir.ir.graph import Graph

BYTES = 4  # of a float32 activation
WIDTH = {"float32": 4, "int64": 8}  # bytes of one entry of a slot


@dataclass(frozen=True, slots=True)
class Cost:
    """`params`: trainable numbers, norms included. `macs`: multiply-accumulates of convolutions, linear layers and
    attention products. `activation_bytes`: float32 bytes of all node outputs for one sample. `weight_bytes`: bytes
    of all weight arrays, running statistics included."""

    params: int
    macs: int
    activation_bytes: int
    weight_bytes: int

    @property
    def flops(self) -> int:
        """Floating-point operations where a multiply-accumulate counts as two, as in MorphNet."""
        return 2 * self.macs


def costs(graph: Graph) -> Mapping[int, Cost]:
    """Cost of each node by id, in topological order; computed once for a graph."""
    return graph.costs


def cost_of(graph: Graph, path: str | None = None) -> Cost:
    """Cost of the whole graph, of a region, or of the node labelled `path`; raises GraphError for an unknown one."""
    known = graph.costs
    if path is None:
        return graph.total_cost
    if path in graph.regions:
        return total(known[node_id] for node_id in graph.members(path))
    return known[graph.find(path)]


def total(parts: Iterable[Cost]) -> Cost:
    """The sum of costs."""
    params = macs = activation_bytes = weight_bytes = 0
    for part in parts:
        params += part.params
        macs += part.macs
        activation_bytes += part.activation_bytes
        weight_bytes += part.weight_bytes
    return Cost(params, macs, activation_bytes, weight_bytes)


def count(graph: Graph) -> dict[int, Cost]:
    """Cost of each node by id, counted anew; use `costs`."""
    typing = graph.infer
    types, slots = typing.types, typing.slots
    values = dict.fromkeys(graph.order, 0)  # entries of all outputs of each node
    for port, value in types.items():
        values[port.node] += prod(value.shape)
    found: dict[int, Cost] = {}
    for node_id, size in values.items():
        node = graph.nodes[node_id]
        params = weights = macs = 0
        for slot in slots[node_id].values():
            entries = slot.size
            weights += entries * WIDTH[slot.dtype]
            if slot.kind == "param":
                params += entries
        counter = op_named(node.op).macs
        if counter is not None:
            macs = counter(node.attrs, tuple([types[port] for port in node.inputs]), types[Port(node_id)])
        found[node_id] = Cost(params, macs, size * BYTES, weights)
    return found
