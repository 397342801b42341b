"""Parts of a network in which paths leave one value and meet again: blocks where no module says what is one."""

from __future__ import annotations

from collections.abc import Collection

from nasir.ir import Graph

JOINING = frozenset(("torch.Tensor.add", "torch.add", "torch.cat", "torch.stack"))
"""Recorded operations that join values, where no rule made an op of them."""


def joins(graph: Graph, node_id: int) -> bool:
    """Whether a node adds or concatenates several values that depend on the inputs."""
    node = graph.nodes[node_id]
    if len({port for port in node.inputs if port.node not in graph.independent}) < 2:
        return False
    facts = node.facts
    return facts.adds or facts.family == "concat" or (facts.family == "opaque" and node.attrs["runs"] in JOINING)


def meeting_places(graph: Graph) -> list[tuple[int, ...]]:
    """Nodes of such parts that lie one behind the other, in topological order, each from after the value that paths
    leave to the sum or concatenation where they meet, with the activations behind it.

    Of parts within another one the outer counts, unless it holds several.
    """
    fixed = graph.independent
    varying = [node_id for node_id in graph.order if node_id not in fixed]
    leaders = _dominators(graph, varying)
    parts: list[frozenset[int]] = []
    for node_id in varying:
        between = _between(graph, leaders[node_id], node_id) if joins(graph, node_id) else None
        if between is not None:
            parts.append(_with_activations(graph, between, node_id))
    chosen: list[frozenset[int]] = []
    for part in sorted(parts, key=len):
        inner = [other for other in chosen if other & part]
        if len(inner) < 2 and all(other <= part for other in inner):
            chosen = [other for other in chosen if other not in inner] + [part]
    position = {node_id: index for index, node_id in enumerate(graph.order)}
    ordered = [tuple(sorted(_with_weights(graph, part), key=position.__getitem__)) for part in chosen]
    return sorted(ordered, key=lambda part: position[part[-1]])


def _dominators(graph: Graph, varying: Collection[int]) -> dict[int, int | None]:
    """The last node that all paths from the inputs to a node go through; None where there is none."""
    leader: dict[int, int | None] = {}
    depth: dict[int | None, int] = {None: 0}
    for node_id in varying:
        sources = [port.node for port in graph.nodes[node_id].inputs if port.node not in graph.independent]
        best: int | None = sources[0] if sources else None
        for source in sources[1:]:
            other: int | None = source
            while best != other:
                if depth[best] >= depth[other]:
                    best = leader[best] if best is not None else None
                else:
                    other = leader[other] if other is not None else None
        leader[node_id] = best
        depth[node_id] = depth[best] + 1
    return leader


def _between(graph: Graph, first: int | None, last: int) -> set[int] | None:
    """What lies on the paths from after `first` to `last`; None where other paths leave it on the way."""
    if first is None:
        return None
    part, stack = {last}, [last]
    while stack:
        for port in graph.nodes[stack.pop()].inputs:
            if port.node != first and port.node not in part and port.node not in graph.independent:
                part.add(port.node)
                stack.append(port.node)
    ends = {port.node for port in graph.outputs}
    way = {first, *part} - {last}
    leaves = any(user not in part for node_id in way for user in graph.users(node_id))
    entries = {port for node_id in part for port in graph.nodes[node_id].inputs if port.node == first}
    return None if leaves or ends & way or len(entries) > 1 else part


def _with_activations(graph: Graph, part: set[int], last: int) -> frozenset[int]:
    """The part with the activations that alone read its end, one after the other."""
    grown = set(part)
    users = graph.users(last)
    while len(users) == 1 and graph.nodes[users[0]].facts.activates:
        grown.add(users[0])
        users = graph.users(users[0])
    return frozenset(grown)


def _with_weights(graph: Graph, part: frozenset[int]) -> set[int]:
    """The part with what depends on no input and is read in it alone."""
    grown = set(part)
    for node_id in reversed(graph.order):
        if node_id in graph.independent and grown.issuperset(graph.users(node_id)):
            grown.add(node_id)
    return grown
