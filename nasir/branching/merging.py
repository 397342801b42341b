"""Which ops may run for all branches at once, on values that hold the branches' channels one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nasir.ir import Graph, Port
from nasir.ir.graph import Node
from nasir.ir.types import Slot
from nasir.transfer import AxisTake, Key, Source, Stack, Take

CHANNELWISE = frozenset(
    {
        *("identity", "relu", "gelu", "silu", "sigmoid", "hardswish", "dropout"),
        *("add", "mul", "mean", "batch_norm", "group_norm", "subsample"),
        *("max_pool", "avg_pool", "adaptive_avg_pool", "global_avg_pool", "flatten"),
    }
)
"""Ops that treat consecutive chunks of channels alike, weights included; group norm with as many groups more."""


def joint(node: Node) -> bool:
    """Whether one node may do the work of the same node of several branches."""
    return node.op in (*CHANNELWISE, "conv2d") or (node.op == "scale" and not node.attrs["learnable"])


def joint_attrs(node: Node, branches: int, shared: bool) -> dict[str, Any]:
    """Attributes of the node that does the work of `branches`; `shared`: a convolution that reads what all read."""
    attrs = dict(node.attrs)
    if node.op == "conv2d":
        attrs["out"] *= branches
        attrs["groups"] *= 1 if shared else branches
    elif node.op == "group_norm":
        attrs["groups"] *= branches
    return attrs


def part_attrs(node: Node, branches: int) -> dict[str, Any]:
    """The reverse of `joint_attrs`."""
    attrs = dict(node.attrs)
    if node.op == "conv2d":
        attrs["out"] //= branches
    if node.op in ("conv2d", "group_norm") and attrs["groups"] > 1:
        attrs["groups"] //= branches
    return attrs


def joint_source(slot: Slot, name: str, node_ids: Sequence[int]) -> Source:
    """An array of the joint node from those of the branches' nodes, one after another."""
    parts = tuple([Take(Key(node_id, name), (None,) * len(slot.axes)) for node_id in node_ids])
    return Stack(0, parts) if slot.axes else parts[0]


def part_source(slot: Slot, key: Key, branch: int, branches: int) -> Take:
    """A branch's part of an array of a joint node."""
    if not slot.axes:
        return Take(key, ())
    size = slot.shape[0] // branches
    rows = AxisTake(np.arange(branch * size, (branch + 1) * size))
    return Take(key, (rows, *[None] * (len(slot.axes) - 1)))


def branch_paths(graph: Graph) -> tuple[str, ...] | None:
    """Paths of the branches whose ensemble the network puts out, in order; None where it is no such network."""
    node = graph.nodes[graph.outputs[0].node]
    if len(graph.outputs) > 1 or node.op != "ensemble" or len(node.inputs) < 2:
        return None
    found = [_branch(graph, port) for port in node.inputs]
    paths = [path for path in found if path is not None]
    return tuple(paths) if len(paths) == len(found) == len(set(paths)) else None


def _branch(graph: Graph, port: Port) -> str | None:
    owners = graph.owners[port.node]
    return next((path for path in owners if graph.regions[path].kind == "branch"), None)


def counterparts(graph: Graph, paths: Sequence[str]) -> dict[int, tuple[int, ...]] | str:
    """The nodes of all branches that do the same, by id of the first branch's; or where the branches differ."""
    members = [
        {graph.nodes[node_id].label[len(path) + 1 :]: node_id for node_id in graph.members(path)} for path in paths
    ]
    first = members[0]
    for path, other in zip(paths, members, strict=True):
        odd = sorted(first.keys() ^ other.keys())
        if odd:
            return f"'{odd[0]}' is not in both '{paths[0]}' and '{path}'"
        for label, node_id in first.items():
            if not _alike(graph, node_id, other[label], first, other):
                return f"'{label}' of '{path}' is not as in '{paths[0]}'"
    return {node_id: tuple([other[label] for other in members]) for label, node_id in first.items()}


def _alike(graph: Graph, node_id: int, other_id: int, first: Mapping[str, int], second: Mapping[str, int]) -> bool:
    node, other = graph.nodes[node_id], graph.nodes[other_id]
    if (node.op, node.attrs, len(node.inputs)) != (other.op, other.attrs, len(other.inputs)):
        return False
    ours, theirs = set(first.values()), {number: label for label, number in second.items()}
    for a, b in zip(node.inputs, other.inputs, strict=True):
        if a.node in ours:
            if a.output != b.output or first.get(theirs.get(b.node, "")) != a.node:
                return False
        elif a != b:
            return False
    return True
