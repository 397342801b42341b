"""Copies of a part of a graph under other labels and in other sizes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from nasir.branching.parts import outputs_of
from nasir.ir import JSON, Atom, Draft, Graph, Index, Port, atoms_of
from nasir.ir.graph import Region
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
    made: dict[int, int] = {}
    ports: dict[Port, Port] = {}
    for node_id in nodes:
        node = graph.nodes[node_id]
        inputs = [ports.get(port, port) for port in node.inputs]
        attrs = _resized(graph, node_id, take)
        made[node_id] = draft.add(node.op, inputs, f"{prefix}.{node.label}", **attrs).node
        for port in outputs_of(graph, node_id):
            ports[port] = Port(made[node_id], port.output)
    return made, ports


def _resized(graph: Graph, node_id: int, take: Mapping[Atom, Index]) -> dict[str, JSON]:
    attrs: dict[str, Any] = dict(graph.nodes[node_id].attrs)
    for (name, entry), axis in graph.infer.mirrors.get(node_id, {}).items():
        if not any(atom in take for atom in atoms_of(axis)):
            continue
        size = size_after(axis, take)
        if entry is None:
            attrs[name] = size
        else:
            values = list(attrs[name])
            values[entry] = size
            attrs[name] = tuple(values)
    return attrs


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
            draft.region(new, region.kind, template(region))


def drop_regions(draft: Draft) -> None:
    """Delete the regions that hold no node any more."""
    labels = [node.label for node in draft.nodes.values()]
    for path in [p for p in draft.regions if not any(label.startswith(f"{p}.") for label in labels)]:
        del draft.regions[path]
