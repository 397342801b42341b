"""Learned numbers put into the branches of residual sums: a factor at their end, and Fixup's shifts."""

from __future__ import annotations

from nasir.analysis.residuals import ResidualSum
from nasir.blocks.tail import transparent
from nasir.ir import JSON, Draft, Graph, Port


def append_scale(draft: Draft, graph: Graph, item: ResidualSum, start: float) -> bool:
    """Let a branch end in a learned factor (SkipInit); False where it does already."""
    end = end_of(draft, graph, item)
    if _learns(draft, end, "scale"):
        return False
    put_between(draft, item.block, end, item.node, "scale", "scale", value=start, learnable=True)
    return True


def fixup_scalars(draft: Draft, graph: Graph, item: ResidualSum, start: float) -> bool:
    """Fixup's numbers in a branch: one added before each kernel and activation, a factor at its end, and one added
    behind that. False where all of them are there."""
    minted = draft.minted
    for node_id in branch_nodes(graph, item):
        node = graph.nodes[node_id]
        acts = node.facts.activates or any(slot.is_kernel for slot in graph.infer.slots[node_id].values())
        if acts and len(node.inputs) == 1 and not _learns(draft, draft.nodes[node_id].inputs[0], "shift"):
            put_between(draft, item.block, draft.nodes[node_id].inputs[0], node_id, "scalar_bias", "bias")
    if not _learns(draft, end_of(draft, graph, item), "shift"):
        append_scale(draft, graph, item, start)
        put_between(draft, item.block, end_of(draft, graph, item), item.node, "scalar_bias", "bias")
    return draft.minted > minted


def branch_nodes(graph: Graph, item: ResidualSum) -> tuple[int, ...]:
    """Ids of the nodes of a branch, in topological order: those of the block that its end is made by, but not the
    stream."""
    members = set(graph.members(item.block))
    found = _ancestors(graph, {item.branch.node}, members - _ancestors(graph, {item.stream.node}, members))
    return tuple([node_id for node_id in graph.members(item.block) if node_id in found])


def _ancestors(graph: Graph, nodes: set[int], within: set[int]) -> set[int]:
    """Of the nodes `within`, these and all that they are made by."""
    found: set[int] = set()
    ahead = [*nodes]
    while ahead:
        node_id = ahead.pop()
        if node_id not in found and node_id in within:
            found.add(node_id)
            ahead += [port.node for port in graph.nodes[node_id].inputs]
    return found


def end_of(draft: Draft, graph: Graph, item: ResidualSum) -> Port:
    """The end of a branch as it is now."""
    return draft.nodes[item.node].inputs[graph.nodes[item.node].inputs.index(item.branch)]


def _learns(draft: Draft, port: Port, family: str) -> bool:
    """Whether a value is made by a learned number of that family, at last but for what lets it through."""
    while transparent(draft.nodes[port.node]):
        port = draft.nodes[port.node].inputs[0]
    return draft.nodes[port.node].facts.family == family and bool(draft.slots(port.node))


def put_between(draft: Draft, region: str, source: Port, reader: int, op: str, name: str, **attrs: JSON) -> None:
    """A node between a value and one of its readers, in a region; in none where its path is ""."""
    label = _free(draft, f"{region}.{name}" if region else name)
    made = draft.add(op, source, label, **attrs)
    draft.join(region, label)
    draft.rewire(source, made, only=[reader])


def _free(draft: Draft, label: str) -> str:
    """The label, or the first of it with a number that no node has or lies below."""
    # one text, in which a search is quick: large networks have many branches
    used = "\n".join(["", *[f"{node.label}." for node in draft.nodes.values()]])
    number = 2
    free = label
    while f"\n{free}." in used:
        free, number = f"{label}_{number}", number + 1
    return free
