"""The windows of convolutions and pools in words."""

from __future__ import annotations

from nasir.ir import Graph, per_axis


def window_of(graph: Graph, node_id: int, times: str = "x") -> str:
    """Sizes of the window that a node slides along the axes beside the channels, as 3x3; "" where it has none."""
    node = graph.nodes[node_id]
    kernel = node.attrs.get("kernel")
    if kernel is None:
        return ""
    rank = max(1, len(graph.infer.types[node.inputs[0]].shape) - 1)
    return times.join(map(str, per_axis(kernel, rank) if isinstance(kernel, int) else kernel))
