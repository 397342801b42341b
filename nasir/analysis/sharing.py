"""Parts of a network that share weights with others, where a rewrite takes each weight for its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nasir.errors import Decline

if TYPE_CHECKING:
    from nasir.ir.graph import Graph


def refuse_sharing(graph: Graph, nodes: Iterable[int], why: str) -> None:
    """Decline, for the reason `why`, where one of `nodes` shares a weight with another node."""
    for node_id in nodes:
        if node_id in graph.sharing:
            weights = [key for key, _ in graph.weights(node_id).values()]
            key = next(key for key in weights if key in graph.shared)
            others = [k.node for k in (key, *graph.shared[key]) if k.node != node_id]
            raise Decline(
                f"'{graph.nodes[node_id].label}' shares its {key.slot} with '{graph.nodes[others[0]].label}', and {why}"
            )
