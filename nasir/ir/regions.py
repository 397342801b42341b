"""Regions: labelled parts of a graph with one entry and one exit."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from nasir.errors import GraphError
from nasir.ir.canon import quoted
from nasir.ir.types import Port

if TYPE_CHECKING:
    from nasir.ir.graph import Graph, Region


def closest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(f"'{other}'" for other in close) + "?"
    return f"known: {quoted(names, 8)}" if names else "there are none"


def members(graph: Graph) -> Mapping[str, tuple[int, ...]]:
    """Node ids of every region in topological order: those whose label lies below its path."""
    found: dict[str, list[int]] = {path: [] for path in graph.regions}
    for node_id in graph.order:
        prefix = graph.nodes[node_id].label
        while "." in prefix:
            prefix = prefix.rpartition(".")[0]
            if prefix in found:
                found[prefix].append(node_id)
    return {path: tuple(ids) for path, ids in found.items()}


def ordered(graph: Graph, kind: str) -> tuple[Region, ...]:
    """Regions of a kind, by the place of their exit in topological order."""
    position = {node_id: index for index, node_id in enumerate(graph.order)}
    chosen = [
        region for region in graph.regions.values() if region.kind == kind and graph.members(region.path)
    ]
    return tuple(sorted(chosen, key=lambda region: position[graph.members(region.path)[-1]]))


def boundary(graph: Graph, path: str) -> tuple[Port, int]:
    """(entry, exit): the one outside port the region reads, the one member others read.

    Raises GraphError when there are none or several.
    """
    inside = set(graph.members(path))
    entries: dict[Port, None] = {}
    exits: dict[Port, None] = {}
    for node_id in graph.members(path):
        for port in graph.nodes[node_id].inputs:
            if port.node not in inside:
                entries.setdefault(port)
        for user in graph.users(node_id):
            if user not in inside:
                for port in graph.nodes[user].inputs:
                    if port.node == node_id:
                        exits.setdefault(port)
    for port in graph.outputs:
        if port.node in inside:
            exits.setdefault(port)
    _single(graph, path, "entry", "reads", entries)
    _single(graph, path, "exit", "is read through", exits)
    return next(iter(entries)), next(iter(exits)).node


def _single(graph: Graph, path: str, what: str, verb: str, ports: Mapping[Port, None]) -> None:
    if len(ports) == 1:
        return
    labels = quoted(graph.nodes[port.node].label for port in ports) or "nothing"
    raise GraphError(
        f"region '{path}' must have one {what}, but {verb} {labels}; move those nodes in or out of it"
    )


def verify(graph: Graph) -> None:
    """Every stage and block holds nodes, has one entry and one exit, and blocks lie within their stage."""
    for path, region in graph.regions.items():
        if region.kind == "branch":
            continue
        if not graph.members(path):
            raise GraphError(f"region '{path}' holds no nodes: remove it or label nodes '{path}....'")
        boundary(graph, path)
