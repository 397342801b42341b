"""The constants that residual branches are multiplied by at their ends: found, set, and put into weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from nasir.analysis.residuals import ResidualSum, residual_depth, residual_sums
from nasir.blocks.branch_ends import end_of, put_between
from nasir.blocks.scales import rule_of, scale_attrs
from nasir.blocks.tail import end_weights, stripped, transparent
from nasir.errors import Decline
from nasir.ir import Draft, Graph, Node, Port
from nasir.ir.op import OpDef
from nasir.ir.source import Key, Sum, Take

NOT_FOLDED = "use how: insert"


@dataclass(frozen=True, slots=True)
class EndScale:
    """The constants at the end of a branch: the nodes that multiply by them, last first, and their product."""

    nodes: tuple[int, ...]
    factor: float


def end_scale(graph: Graph, item: ResidualSum) -> EndScale:
    """The constants that a branch is multiplied by at its end, behind everything else that changes numbers.

    A node that something else reads, too, is a part of the branch.
    """
    found = []
    factor, port = 1.0, item.branch
    while _read_once(graph, port.node):
        node = graph.nodes[port.node]
        constant = None if graph.weights(port.node) else _constant(node)
        if constant is not None:
            found.append(port.node)
            factor *= constant
        elif not (transparent(node) and len(node.inputs) == 1):
            break
        port = node.inputs[0]
    return EndScale(tuple(found), factor)


def base_of(draft: Draft) -> Graph:
    """The network that a draft changes."""
    assert draft.base is not None
    return draft.base


def _read_once(graph: Graph, node_id: int) -> bool:
    return len(graph.users(node_id)) == 1 and all(port.node != node_id for port in graph.outputs)


def _constant(node: Node) -> float | None:
    """What a node without weights multiplies by: its attribute `value`, or what its function says; None for another."""
    if node.facts.family != "scale":
        return None
    if node.facts.pointwise is None:
        return node.attrs.get("value")
    return float(node.facts.pointwise(np.ones(1), **node.attrs)[0])


def set_end_scale(draft: Draft, graph: Graph, item: ResidualSum, end: EndScale, **attrs: float | bool) -> None:
    """Let a branch end in one node `scale` with these attributes, in place of the constants that are there.

    `graph`: the network as it is in the draft.
    """
    if len(end.nodes) == 1 and not attrs["learnable"]:
        node = graph.nodes[end.nodes[0]]
        changed = Node(node.op, node.inputs, {**node.attrs, "value": attrs["value"]}, node.label)
        if _constant(changed) == attrs["value"]:
            draft.set_attrs(end.nodes[0], value=attrs["value"])
            return
    drop_end_scale(draft, end)
    put_between(draft, item.block, end_of(draft, graph, item), item.node, "scale", "scale", **attrs)


def drop_end_scale(draft: Draft, end: EndScale) -> None:
    """Take the constants at the end of a branch away."""
    for node_id in end.nodes:
        before = draft.nodes[node_id].inputs[0]
        draft.rewire(Port(node_id), before)
        draft.remove(node_id)


def multiply(draft: Draft, item: ResidualSum, gain: float) -> None:
    """Multiply the last weights of a branch, so that its end is `gain` times what it was, in training as well.

    Those are the scale and the shift of a norm, the kernel and the bias of another layer, or a learned scale. Decline
    where the branch is not proportional to any weights, or where they are not its own.
    """
    graph = base_of(draft)
    try:
        weights = end_weights(draft, stripped(draft, item.branch.node), _proportional, NOT_FOLDED)
    except Decline as refusal:
        raise Decline(f"block '{item.block}': {refusal}") from None
    holders = {node_id for node_id, _, _ in weights}
    ways = _ways(graph, item, holders)
    for node_id in ways:
        _check_own(graph, item, node_id, gain)
        if sum(port.node in ways for port in graph.nodes[node_id].inputs) > 1:
            label = graph.nodes[node_id].label
            raise Decline(f"block '{item.block}': '{label}' multiplies what the same weights give; {NOT_FOLDED}")
    for node_id in holders:
        _check_weights(graph, item, node_id)
    for node_id, slot, _ in weights:
        key = Key(node_id, slot)
        whole = Take(key, (None,) * len(graph.infer.slots[node_id][slot].axes))
        draft.source(node_id, slot, Sum((whole,), gain))


def _proportional(facts: OpDef) -> bool:
    """Whether a nonlinearity gives g times as much for g >= 0 times its input."""
    return facts.rectifies


def _ways(graph: Graph, item: ResidualSum, holders: set[int]) -> set[int]:
    """The nodes on the ways from the holders of weights to the end of a branch, both included."""
    members = graph.members(item.block)
    order = members if holders.issubset(members) else graph.order
    above = {item.branch.node}
    for node_id in reversed(order):
        if node_id in above:
            above.update(port.node for port in graph.nodes[node_id].inputs)
    ways = set(holders)
    for node_id in order:
        if node_id in above and any(port.node in ways for port in graph.nodes[node_id].inputs):
            ways.add(node_id)
    return ways


def _check_own(graph: Graph, item: ResidualSum, node_id: int, gain: float) -> None:
    node = graph.nodes[node_id]
    if not _read_once(graph, node_id):
        raise Decline(f"block '{item.block}': '{node.label}' is read by others than the branch's sum; {NOT_FOLDED}")
    if gain < 0.0 and (node.facts.activates or node.facts.family == "pool"):
        raise Decline(
            f"block '{item.block}': a factor of {gain:.3g} does not go through '{node.label}' ({node.op}); {NOT_FOLDED}"
        )


def _check_weights(graph: Graph, item: ResidualSum, node_id: int) -> None:
    label = graph.nodes[node_id].label
    if node_id in graph.sharing:
        raise Decline(f"block '{item.block}': '{label}' shares its weights with other nodes; {NOT_FOLDED}")
    if graph.is_frozen(node_id):
        raise Decline(f"block '{item.block}': '{label}' is frozen, so its weights stay; unfreeze it, or {NOT_FOLDED}")


def rescale(draft: Draft, graph: Graph, blocks: Iterable[str]) -> bool:
    """Give those branches of blocks that are scaled by a rule of their template what it says in the network `graph`,
    that of the draft. Whether any changes."""
    n, changed = residual_depth(graph), False
    for path in blocks:
        rule = rule_of(graph.regions[path])
        if rule is None:
            continue
        for item in residual_sums(graph, path):
            end, attrs = end_scale(graph, item), scale_attrs(rule, n)
            if end.nodes and end.factor != attrs["value"]:
                set_end_scale(draft, graph, item, end, **attrs)
                changed = True
    return changed
