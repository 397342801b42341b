"""Copies of a part of a graph under other labels and in other sizes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from nasir.branching.parts import outputs_of
from nasir.ir import JSON, Atom, Draft, Graph, Index, Port
from nasir.ir.infer import mirrored
from nasir.ir.node import Region
from nasir.ir.regions import BRANCHES
from nasir.ir.source import Key
from nasir.ir.space import size_after

NOTHING: Mapping[Any, Any] = MappingProxyType({})


def numbered(branch: int, label: str = "") -> str:
    """Path of a branch, or of a label in it."""
    return f"{BRANCHES}.{branch}.{label}" if label else f"{BRANCHES}.{branch}"


def copy_nodes(
    draft: Draft,
    graph: Graph,
    nodes: Collection[int],
    rename: Callable[[str], str],
    take: Mapping[Atom, Index] = NOTHING,
    entries: Mapping[Port, Port] = NOTHING,
) -> tuple[dict[int, int], dict[Port, Port]]:
    """Copies of `nodes` (of `graph`, in topological order), with other labels and names of weights, with spaces resized
    as `take` says, and with other ports in the place of `entries`.

    Returns (new id by old id, new port by old port); other ports from outside are read as they are. Weights that nodes
    share among themselves are shared by their copies.
    """
    size = partial(size_after, take=take)
    made: dict[int, int] = {}
    ports: dict[Port, Port] = dict(entries)
    for node_id in nodes:
        node = graph.nodes[node_id]
        inputs = [ports.get(port, port) for port in node.inputs]
        attrs = mirrored(node.attrs, graph.infer.mirrors.get(node_id, {}), size)
        made[node_id] = draft.add(node.op, inputs, rename(node.label), **attrs).node
        for port in outputs_of(graph, node_id):
            ports[port] = Port(made[node_id], port.output)
    for key, owner in graph.ties.items():
        if key.node in made and owner.node in made:
            draft.tie(Key(made[key.node], key.slot), Key(made[owner.node], owner.slot))
    for key, names in graph.names.items():
        if key.node in made:
            draft.name(Key(made[key.node], key.slot), *map(rename, names))
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
