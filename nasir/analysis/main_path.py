"""The main path of a network: the chain of its layers, without those of branches.

A node lies on the main path when every path from the inputs to the outputs goes through it. A layer is a convolution,
linear layer, pooling or merge on the main path, together with the norm, activation and dropout that follow it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nasir.ir.graph import Graph
from nasir.ir.op import OpDef
from nasir.ir.types import Port

Kind = Literal["weighted", "pool", "merge"]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the main path: `node` does the work, `end` is its last node (the activation).

    `segment` counts the poolings up to and with this layer: layers of one segment lie between two poolings.
    """

    node: int
    end: int
    kind: Kind
    segment: int


def main_nodes(graph: Graph) -> tuple[int, ...]:
    """The nodes that every path from inputs to outputs takes, in topological order; one-output nodes only."""
    position = {node_id: index for index, node_id in enumerate(graph.order)}
    beyond = len(position)
    outside = {port.node for port in graph.outputs}
    nodes: list[int] = []
    furthest = 0  # the last reader of anything earlier
    for index, node_id in enumerate(graph.order):
        if furthest <= index and Port(node_id, 1) not in graph.infer.types:
            nodes.append(node_id)
        last = max((position[user] for user in graph.users(node_id)), default=index)
        furthest = max(furthest, beyond if node_id in outside else last)
    return tuple(nodes)


def layers(graph: Graph) -> tuple[Layer, ...]:
    """The layers of the main path, in order."""
    chain = main_nodes(graph)
    on_path: list[Layer] = []
    segment = 0
    for index, node_id in enumerate(chain):
        kind = _kind(graph.nodes[node_id].facts)
        if kind is None:
            continue
        segment += kind == "pool"
        on_path.append(Layer(node_id, _end(graph, chain, index, kind), kind, segment))
    return tuple(on_path)


def _kind(facts: OpDef) -> Kind | None:
    if facts.convolves:
        return "weighted"
    if facts.family == "pool":
        return "pool"
    return "merge" if facts.unifies or facts.family == "concat" else None


def _end(graph: Graph, chain: tuple[int, ...], index: int, kind: Kind) -> int:
    """The last node of the layer; a norm behind a pooling or merge belongs to the layer after it."""
    end, active = chain[index], False
    for node_id in chain[index + 1 :]:
        facts = graph.nodes[node_id].facts
        if facts.activates and not active:
            active = True
        elif facts.family == "norm":
            if kind != "weighted" or active:
                break
        elif facts.family not in ("passive", "scale"):
            break
        end = node_id
    return end
