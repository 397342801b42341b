"""A network run node by node in evaluation, to look at the values inside it or to change them.

It computes what the network does, of its own modules and calls, without the units that blocks run as: what a user put
in the place of a whole block cannot be looked into, and hooks on blocks are not called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from torch import Tensor

from nasir.backends.torch.lower.ops import Call
from nasir.backends.torch.lower.parts import LoweredParts
from nasir.ir import Graph, Port
from nasir.ir.modes import reads_of

Watcher: TypeAlias = Callable[[tuple[Tensor, ...], Tensor], Tensor]
"""(inputs of a node, its value) -> the value that the rest of the network reads."""


def run_stepwise(
    model: LoweredParts,
    inputs: Sequence[Tensor],
    watched: Mapping[int, Watcher] = MappingProxyType({}),
    bypassed: Mapping[int, Port] = MappingProxyType({}),
) -> tuple[Tensor, ...]:
    """The answers of the graph to its `inputs`; the modules are called in the modes that they are in.

    `watched`: by node, what sees its value. `bypassed`: by node, the port whose value stands in for its own; what only
    led to its own is not computed. Buffers that the network assigns to stay as they are. Raises UsageError where a
    block was replaced by hand.
    """
    graph = model.graph
    for node_id in sorted(model._foreign):
        raise model._strange(node_id)
    reads = _reads(graph, bypassed)
    left = dict.fromkeys(graph.answers, 1)  # reads to come of each value; those of answers never end
    for ports in reads.values():
        for port in ports:
            left[port] = left.get(port, 0) + 1
    values: dict[Port, Tensor] = dict(zip(map(Port, graph.inputs), inputs, strict=True))
    for node_id in graph.order:
        if node_id not in reads:
            continue
        operands = tuple([values[port] for port in reads[node_id]])
        made = operands[0] if node_id in bypassed else _value(model, node_id, operands)
        if node_id in watched:
            made = watched[node_id](operands, made)
        if graph.nodes[node_id].facts.several:
            values.update({Port(node_id, number): part for number, part in enumerate(made)})
        else:
            values[Port(node_id)] = made
        for port in reads[node_id]:
            left[port] -= 1
            if not left[port]:
                del values[port]
    return tuple([values[port] for port in graph.answers])


def _reads(graph: Graph, bypassed: Mapping[int, Port]) -> dict[int, tuple[Port, ...]]:
    """The values that each node reads which the answers need."""
    reads: dict[int, tuple[Port, ...]] = {}
    ahead = [port.node for port in graph.answers]
    sources = set(graph.inputs)
    while ahead:
        node_id = ahead.pop()
        if node_id in reads or node_id in sources:
            continue
        node = graph.nodes[node_id]
        wanted = zip(node.inputs, reads_of(node), strict=True)
        through = bypassed.get(node_id)
        reads[node_id] = tuple([port for port, mode in wanted if mode != "train"]) if through is None else (through,)
        ahead += [port.node for port in reads[node_id]]
    return reads


def _value(model: LoweredParts, node_id: int, operands: tuple[Tensor, ...]) -> Any:
    if model.graph.nodes[node_id].facts.family == "mode":  # nothing is what an output of training alone gives
        return next(iter(operands), None)
    lowered = model._lowered[node_id]
    if isinstance(lowered, Call):
        first: tuple[Any, ...] = (list(operands),) if lowered.listed else operands
        return lowered.target(*first, *lowered.args, **lowered.kwargs)
    if model.graph.nodes[node_id].facts.family == "route":  # its ways are calls, of which these are computed already
        return lowered(operands[0], *[(None, (value,)) for value in operands[1:]])
    return lowered(*operands)
