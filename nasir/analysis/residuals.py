"""The residual sums of a network: where a branch is added to the stream that runs past it.

A block of one residual branch has one such sum, a transformer's block two. What analyses measure, passes scale and
routers skip is told in these terms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nasir.ir.graph import Graph
from nasir.ir.node import Region
from nasir.ir.types import Port

STREAM = ("passive", "activation", "norm", "pad")
"""Families of ops of one input that may lie on the stream of a block: it goes through them."""


@dataclass(frozen=True, slots=True)
class ResidualSum:
    """`node` adds the end of a branch to the stream: stream + branch.

    `block`: path of the block that it lies in. `projected`: the shortcut is not the stream itself but a projection of
    it, as where a block changes the shape.
    """

    block: str
    node: int
    stream: Port
    branch: Port
    projected: bool


def residual_sums(graph: Graph, block: str | None = None) -> tuple[ResidualSum, ...]:
    """The residual sums of a block, or of all blocks that contain no other, in the order of the network."""
    if block is not None:
        return tuple(reversed([*_upwards(graph, graph.regions[block])]))
    paths = [region.path for region in graph.blocks]
    outer = {path[:end] for path in paths for end, letter in enumerate(path) if letter == "."}
    return tuple(found for path in paths if path not in outer for found in residual_sums(graph, path))


def residual_depth(graph: Graph) -> int:
    """The number of residual sums on the longest way through a network: of those in parallel only the most count."""
    sums = {item.node for item in residual_sums(graph)}
    passed: dict[int, int] = {}
    for node_id in graph.order:
        before = [passed[port.node] for port in graph.nodes[node_id].inputs]
        passed[node_id] = max(before, default=0) + (node_id in sums)
    return max(passed.values(), default=0)


def _upwards(graph: Graph, block: Region) -> Iterator[ResidualSum]:
    """From the output of a block up to its input, along the stream."""
    entry, exit_ = graph.boundary(block.path)
    members = set(graph.members(block.path))
    port = Port(exit_)
    while port != entry and port.node in members:
        node = graph.nodes[port.node]
        if node.facts.family in STREAM and len(node.inputs) == 1:
            port = node.inputs[0]
            continue
        if node.facts.family == "route":  # its first way is to run the block
            port = node.inputs[1]
            continue
        if node.facts.family != "sum" or len(node.inputs) != 2:
            return
        stream = _stream(graph, members, entry, node.inputs)
        if stream is None:
            return
        branch = node.inputs[1 - node.inputs.index(stream)]
        projected = _made_by(graph, members, stream, until_sum=True)[0] > 0
        yield ResidualSum(block.path, port.node, stream, branch, projected)
        if projected:
            return
        port = stream


def _stream(graph: Graph, members: set[int], entry: Port, operands: tuple[Port, ...]) -> Port | None:
    """The operand of a sum that is the stream: the one with no kernel between it and the block's input or the sum
    before; else the one with fewer kernels, a projection, or with as many but fewer activations. None where both have
    as many of each."""
    if entry in operands:
        return entry if operands[0] != operands[1] else None
    near, far = ([_made_by(graph, members, port, until_sum=until) for port in operands] for until in (True, False))
    kernels, activations = zip(*near, strict=True)
    for counts in (kernels, [made[0] for made in far], activations):
        if counts[0] != counts[1]:
            return operands[counts.index(min(counts))]
    return None


def _made_by(graph: Graph, members: set[int], port: Port, *, until_sum: bool) -> tuple[int, int]:
    """(nodes with kernels, and foreign ones; activations) of a block that a value is made by."""
    seen: set[int] = set()
    ahead = [port.node]
    while ahead:
        node_id = ahead.pop()
        if node_id in seen or node_id not in members:
            continue
        seen.add(node_id)
        if not (until_sum and graph.nodes[node_id].facts.family == "sum"):
            ahead += [source.node for source in graph.nodes[node_id].inputs]
    kernels = sum(
        graph.nodes[n].facts.foreign or any(slot.is_kernel for slot in graph.infer.slots[n].values()) for n in seen
    )
    return kernels, sum(graph.nodes[n].facts.family == "activation" for n in seen)
