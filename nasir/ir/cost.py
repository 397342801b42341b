"""What a network costs: parameters, multiply-accumulates and activation bytes, for one sample."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from nasir.ir.op import op_named
from nasir.ir.types import Port

if TYPE_CHECKING:
    from nasir.ir.graph import Graph

BYTES = 4  # of a float32 activation


@dataclass(frozen=True, slots=True)
class Cost:
    """`params`: trainable numbers, norms included. `macs`: multiply-accumulates of conv and linear ops only
    (FLOPs are twice that). `activation_bytes`: float32 bytes of all node outputs for one sample."""

    params: int
    macs: int
    activation_bytes: int


def cost_of(graph: Graph, path: str | None = None) -> Cost:
    """Cost of the whole graph, of a region, or of the node labelled `path`."""
    if path is None:
        ids: tuple[int, ...] = graph.order
    elif path in graph.regions:
        ids = graph.members(path)
    else:
        ids = (graph.find(path),)
    params = macs = values = 0
    typing = graph.infer
    for node_id in ids:
        node = graph.nodes[node_id]
        params += sum(slot.size for slot in typing.slots[node_id].values() if slot.kind == "param")
        definition = op_named(node.op)
        port = Port(node_id)
        out = typing.types[port]
        if definition.macs is not None:
            inputs = tuple([typing.types[port] for port in node.inputs])
            macs += definition.macs(node.attrs, inputs, out)
        while port in typing.types:
            values += prod(typing.types[port].shape)
            port = Port(node_id, port.output + 1)
    return Cost(params, macs, values * BYTES)
