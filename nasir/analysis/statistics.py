"""Norms that keep running statistics."""

from __future__ import annotations

from nasir.ir import Graph

MEAN, VARIANCE = "running_mean", "running_var"


def keeps_statistics(graph: Graph, node_id: int) -> bool:
    """Whether a node has running statistics that move while it trains; those of frozen norms never do."""
    return MEAN in graph.weights(node_id) and "momentum" in graph.nodes[node_id].attrs
