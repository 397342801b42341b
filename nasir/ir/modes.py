"""In which mode each node runs: what only the training of a network needs is not computed in its evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_args

from nasir.ir.node import Node, facts_of
from nasir.ir.types import Mode, Port

BOTH: frozenset[Mode] = frozenset(get_args(Mode))


def not_in_both(nodes: Mapping[int, Node], outputs: Iterable[Port]) -> dict[int, frozenset[Mode]]:
    """The modes of the nodes that do not run in both, by id."""
    if all(facts.reads is None for facts in facts_of(nodes)):
        return {}
    return {node_id: modes for node_id, modes in running(nodes, outputs).items() if modes != BOTH}


def running(nodes: Mapping[int, Node], outputs: Iterable[Port]) -> dict[int, frozenset[Mode]]:
    """The modes of each node, by id: those in which an output needs it."""
    found: dict[int, set[Mode]] = {node_id: set() for node_id in nodes}
    stack = [(port.node, mode) for port in outputs for mode in BOTH]
    while stack:
        node_id, mode = stack.pop()
        if mode in found[node_id]:
            continue
        found[node_id].add(mode)
        node = nodes[node_id]
        wanted = reads_of(node)
        stack += [(port.node, mode) for port, read in zip(node.inputs, wanted, strict=True) if read in (None, mode)]
    return {node_id: frozenset(modes) for node_id, modes in found.items()}


def reads_of(node: Node) -> tuple[Mode | None, ...]:
    """The mode in which a node reads each of its inputs; None for both."""
    reads = node.facts.reads
    return (None,) * len(node.inputs) if reads is None else reads(node.attrs)
