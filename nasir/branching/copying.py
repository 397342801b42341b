"""Copies of a part of a graph under other labels and in other sizes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial

from nasir.branching.parts import outputs_of
from nasir.ir import JSON, Atom, Draft, Graph, Index, Port
from nasir.ir.infer import mirrored
from nasir.ir.node import Region
from nasir.ir.regions import BRANCHES
from nasir.ir.space import size_after


def numbered(branch: int, label: str = "") -> str:
    """Path of a branch, or of a label in it."""
    return f"{BRANCHES}.{branch}.{label}" if label else f"{BRANCHES}.{branch}"


def copy_nodes(
    draft: Draft, graph: Graph, nodes: Collection[int], prefix: str, take: Mapping[Atom, Index]
) -> tuple[dict[int, int], dict[Port, Port]]:
    """Copies of `nodes` (of `graph`, in topological order) labelled below `prefix`, with spaces resized as `take` says.

    Returns (new id by old id, new port by old port); ports from outside are read as they are.
    """
    size = partial(size_after, take=take)
    made: dict[int, int] = {}
    ports: dict[Port, Port] = {}
    for node_id in nodes:
        node = graph.nodes[node_id]
        inputs = [ports.get(port, port) for port in node.inputs]
        attrs = mirrored(node.attrs, graph.infer.mirrors.get(node_id, {}), size)
        made[node_id] = draft.add(node.op, inputs, f"{prefix}.{node.label}", **attrs).node
        for port in outputs_of(graph, node_id):
            ports[port] = Port(made[node_id], port.output)
    return made, ports


def copy_regions(
    draft: Draft,
    graph: Graph,
    nodes: Collection[int],
    rename: Callable[[str], str],
    template: Callable[[Region], Mapping[str, JSON] | None],
) -> None:
    """Declare the stages and blocks of `nodes` again under other paths; one that is there already stays."""
    inside = set(nodes)
    for path, region in graph.regions.items():
        new = rename(path)
        if region.kind != "branch" and new not in draft.regions and not inside.isdisjoint(graph.members(path)):
            draft.region(new, region.kind, template(region), map(rename, region.parts))
