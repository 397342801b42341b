"""Branches that are trained each by its own loss, and which weights are whose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from nasir.branching.merged import joint_nodes, splits_of
from nasir.errors import Decline
from nasir.ir import Graph, Port


class Part(NamedTuple):
    """The weights of a node, or those of one branch among `of` that it works for: equal parts of their first axes."""

    node: int
    number: int = 0
    of: int = 1


Learner: TypeAlias = tuple[Part, ...]
"""What learns by a loss of its own."""


def independent(graph: Graph) -> tuple[Learner, ...]:
    """The weights of each branch that is trained separately, in order, and last those that several branches share.

    Empty for all other networks. Together they are all the weights of the network.
    """
    ends = [port.node for output in graph.outputs for port in _branches(graph, output)]
    if len(ends) < 2:
        return ()
    behind = [_behind(graph, end) for end in ends]
    merged = _merged(graph, len(ends))
    own: list[list[Part]] = [[] for _ in ends]
    shared: list[Part] = []
    for node in graph.order:
        if not graph.infer.slots[node]:
            continue
        users = [number for number, nodes in enumerate(behind) if node in nodes]
        if node in merged:
            for number, parts in enumerate(own):
                parts.append(Part(node, number, len(ends)))
        else:
            (own[users[0]] if len(users) == 1 else shared).append(Part(node))
    return tuple(map(tuple, [*own, shared]))


def _branches(graph: Graph, port: Port) -> Iterator[Port]:
    """What a separately trained ensemble averages, ensembles within it taken apart; nothing for anything else."""
    node = graph.nodes[port.node]
    if node.facts.family != "ensemble" or node.attrs["train"] != "separate":
        return
    for inner in node.inputs:
        nested = list(_branches(graph, inner))
        yield from nested or [inner]


def _behind(graph: Graph, end: int) -> set[int]:
    reached: set[int] = set()
    stack = [end]
    while stack:
        node = stack.pop()
        if node not in reached:
            reached.add(node)
            stack.extend(port.node for port in graph.nodes[node].inputs)
    return reached


def _merged(graph: Graph, branches: int) -> Sequence[int]:
    """Nodes that do the work of all branches side by side."""
    splits = splits_of(graph)
    try:
        return joint_nodes(graph, [graph.nodes[node].inputs[0] for node in splits], branches)[0] if splits else ()
    except Decline:  # what they read in common is not theirs
        return ()
