"""What a network costs: parameters, multiply-accumulates and bytes, for one sample.

Batch normalization, activations and pooling count as no multiply-accumulates; `OpDef.macs` says which ops count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from nasir.ir.infer import Typing
from nasir.ir.node import Node
from nasir.ir.op import op_named
from nasir.ir.types import Port

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


def total(parts: Iterable[Cost]) -> Cost:
    """The sum of costs."""
    params = macs = activation_bytes = weight_bytes = 0
    for part in parts:
        params += part.params
        macs += part.macs
        activation_bytes += part.activation_bytes
        weight_bytes += part.weight_bytes
    return Cost(params, macs, activation_bytes, weight_bytes)


def count(nodes: Mapping[int, Node], typing: Typing) -> dict[int, Cost]:
    """Cost of each node by id, in topological order, counted on every call; `Graph.costs` keeps it."""
    types, slots = typing.types, typing.slots
    values = dict.fromkeys(slots, 0)  # entries of all outputs of each node
    for port, value in types.items():
        values[port.node] += prod(value.shape)
    costs: dict[int, Cost] = {}
    for node_id, size in values.items():
        node = nodes[node_id]
        params = weights = macs = 0
        for slot in slots[node_id].values():
            entries = slot.size
            weights += entries * WIDTH[slot.dtype]
            if slot.kind == "param":
                params += entries
        counter = op_named(node.op).macs
        if counter is not None:
            macs = counter(node.attrs, tuple([types[port] for port in node.inputs]), types[Port(node_id)])
        costs[node_id] = Cost(params, macs, size * BYTES, weights)
    return costs
