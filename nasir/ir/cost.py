"""What a network costs: parameters, multiply-accumulates and bytes, for one sample.

Batch normalization, activations and pooling count as no multiply-accumulates; `OpDef.macs` says which ops count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from nasir.ir.infer import Typing
from nasir.ir.node import Node
from nasir.ir.op import op_named
from nasir.ir.types import FLOAT, WIDTH, Port

BYTES = WIDTH[FLOAT]  # of an activation


@dataclass(frozen=True, slots=True)
class Cost:
    """`params`: trainable numbers, norms included. `macs`: multiply-accumulates of convolutions, linear layers and
    attention products. `activation_bytes`: bytes of all node outputs for one sample, in float32. `weight_bytes`: bytes
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


def count(nodes: Mapping[int, Node], typing: Typing, idle: Collection[int] = ()) -> dict[int, Cost]:
    """Cost of each node by id, in topological order, counted on every call; `Graph.costs` keeps it. Those of `idle`,
    which do not run in evaluation, cost their weights alone."""
    types, slots = typing.types, typing.slots
    values = dict.fromkeys(slots, 0)  # bytes of all outputs of each node
    for port, value in types.items():
        values[port.node] += value.bytes
    costs: dict[int, Cost] = {}
    for node_id, size in values.items():
        node = nodes[node_id]
        params = weights = 0
        for slot in slots[node_id].values():
            entries = slot.size
            weights += entries * WIDTH[slot.dtype]
            if slot.kind == "param":
                params += entries
        definition, macs = op_named(node.op), 0
        if node_id in idle:
            size = 0
        elif definition.macs is not None:
            inputs = tuple([types[port] for port in node.inputs])
            macs = definition.macs_of(node.attrs, inputs, types[Port(node_id)])
        costs[node_id] = Cost(params, macs, size, weights)
    return costs
