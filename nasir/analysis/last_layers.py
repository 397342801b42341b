"""The layers whose kernels make what a network puts out: its classifier, or those of its branches."""

from __future__ import annotations

from nasir.ir.structure import Structure


def last_layers(graph: Structure) -> frozenset[int]:
    """Ids of the nodes with kernels between which and an output there is no other kernel."""
    found: set[int] = set()
    ahead, seen = [port.node for port in graph.outputs], set[int]()
    while ahead:
        node_id = ahead.pop()
        if node_id in seen:
            continue
        seen.add(node_id)
        if any(slot.is_kernel for slot in graph.infer.slots[node_id].values()):
            found.add(node_id)
        else:
            ahead += [port.node for port in graph.nodes[node_id].inputs]
    return frozenset(found)
