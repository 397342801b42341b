"""Which ops may run for all branches at once, on values that hold the branches' channels one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nasir.branching.parts import outputs_of
from nasir.ir import Graph, Port
from nasir.ir.node import Node
from nasir.ir.types import Slot
from nasir.transfer import AxisTake, Key, Source, Stack, Take


def joint(graph: Graph, node_id: int) -> bool:
    """Whether one node may do the work of the same node of several branches: by its channels, weights included."""
    channels = graph.nodes[node_id].facts.channels
    if channels != "groups" and (channels != "alone" or graph.infer.mirrors.get(node_id)):
        return False
    return all(
        slot.axes[0].role in ("along", "write") if slot.axes else slot.kind == "buffer"
        for slot in graph.infer.slots[node_id].values()
    )


def along_channels(graph: Graph, node_id: int) -> bool:
    """Whether a node takes apart or joins values along their channels, as all that it reads and gives differ there."""
    types = graph.infer.types
    values = [types[port] for port in (*graph.nodes[node_id].inputs, *outputs_of(graph, node_id))]
    return len({(value.channel_axis, value.with_channels(0).shape) for value in values}) == 1


def joint_attrs(node: Node, branches: int, shared: bool) -> dict[str, Any]:
    """Attributes of the node that does the work of `branches`; `shared`: a convolution that reads what all read."""
    attrs = dict(node.attrs)
    if node.facts.channels == "groups":
        attrs["groups"] *= 1 if shared else branches
        if "out" in attrs:
            attrs["out"] *= branches
    return attrs


def part_attrs(node: Node, branches: int) -> dict[str, Any]:
    """The reverse of `joint_attrs`."""
    attrs = dict(node.attrs)
    if node.facts.channels == "groups":
        if attrs["groups"] > 1:
            attrs["groups"] //= branches
        if "out" in attrs:
            attrs["out"] //= branches
    return attrs


def over_outputs(node: Node) -> bool:
    """Whether a node that reads what all branches read does their work by more outputs, not by groups."""
    return node.facts.family == "weighted" and node.facts.channels == "groups" and node.attrs["groups"] == 1


def is_dense(graph: Graph, node_id: int) -> bool:
    """Whether a node is a linear layer: a kernel without a window that reads all it gets, and perhaps a bias."""
    slots = graph.infer.slots[node_id].values()
    kernels = [slot for slot in slots if slot.is_kernel]
    if graph.nodes[node_id].facts.family != "weighted" or len(kernels) != 1 or len(kernels[0].axes) != 2:
        return False
    whole = kernels[0].shape[kernels[0].axis("read")] == graph.infer.types[graph.nodes[node_id].inputs[0]].shape[-1]
    return whole and all(slot.is_kernel or (slot.kind == "param" and "bias" in slot.tags) for slot in slots)


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
    if len(graph.outputs) > 1 or node.facts.family != "ensemble" or len(node.inputs) < 2:
        return None
    ends = [_branch(graph, port) for port in node.inputs]
    paths = [path for path in ends if path is not None]
    return tuple(paths) if len(paths) == len(ends) == len(set(paths)) else None


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
