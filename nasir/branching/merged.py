"""Networks that merge-branches made: nodes that do the work of several branches, and where the branches part again."""

from __future__ import annotations

from nasir.branching.merging import along_channels, branch_paths, joint, over_outputs
from nasir.branching.parts import outputs_of
from nasir.errors import Decline
from nasir.ir import Graph, Port


def splits_of(graph: Graph) -> list[int]:
    """Splits into equal parts that the branches of an ensemble read, each its own."""
    paths = branch_paths(graph)
    if paths is None:
        return []
    split_nodes = []
    for node_id, node in graph.nodes.items():
        if node.facts.family != "split" or not node.facts.several or not along_channels(graph, node_id):
            continue
        sizes = [graph.infer.types[port].shape for port in outputs_of(graph, node_id)]
        if len(set(sizes)) > 1 or len(sizes) != len(paths):
            continue
        readers = [
            {port.output for port in graph.nodes[user].inputs if port.node == node_id} == {branch}
            for branch, path in enumerate(paths)
            for user in graph.users(node_id)
            if path in graph.owners[user]
        ]
        if readers and all(readers):
            split_nodes.append(node_id)
    return split_nodes


def joint_nodes(graph: Graph, ends: list[Port], branches: int) -> tuple[list[int], set[int]]:
    """(joint nodes in topological order, concats that repeat a shared value) behind the ports `ends`.

    Raises Decline for a node that does not do the work of so many branches.
    """
    joint_ids: set[int] = set()
    repeats: set[int] = set()
    stack = [port.node for port in ends]
    while stack:
        node_id = stack.pop()
        node = graph.nodes[node_id]
        if node_id in joint_ids or node_id in repeats:
            continue
        once = len(node.inputs) == branches and len(set(node.inputs)) == 1
        if node.facts.family == "concat" and once and along_channels(graph, node_id):
            repeats.add(node_id)
            continue
        shared = node.facts.channels == "groups" and over_outputs(node)
        groups = node.attrs["groups"] if node.facts.channels == "groups" else branches
        channels = next(outputs_of(graph, node_id))
        fits = graph.infer.types[channels].shape[0] % branches == 0 and (shared or groups % branches == 0)
        if not fits or not joint(graph, node_id):
            raise Decline(f"'{node.label}' ({node.op}) does not do the work of {branches} branches side by side")
        joint_ids.add(node_id)
        if not shared:
            stack.extend(port.node for port in node.inputs)
    return [node_id for node_id in graph.order if node_id in joint_ids], repeats
