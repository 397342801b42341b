"""How the weights of a network begin, for initializers that go by the place of a layer, too.

Fixup (Zhang, Dauphin & Ma 2019): with L residual branches in the network and m layers with kernels in a branch, the
last of these is zero, the others are He-normal (fan-out) times L ** (-1 / (2 m - 2)), and biases are zero, as is the
classifier. Projections of shortcuts are He-normal; the stem begins by the default of its op, as in the released code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nasir.analysis.last_layers import last_layers
from nasir.analysis.residuals import ResidualSum, residual_sums
from nasir.blocks.branch_ends import branch_nodes
from nasir.blocks.init import FIXUP, HE, ZEROS, oriented, own_init, starts
from nasir.ir import Draft, Fill, Graph, Port
from nasir.ir.node import Region
from nasir.ir.source import Key


def starts_of(graph: Graph, init_at: Callable[[int], str]) -> dict[Key, Fill]:
    """{weight: rule} for those weights of a network that begin otherwise than by the default of their op.

    `init_at`: the name of the initializer of a node; raises UnknownName for one that there is none of.
    """
    found: dict[Key, Fill] = {}
    by_place = False
    for node_id, slots in graph.infer.slots.items():
        init = init_at(node_id)
        by_place = by_place or init == FIXUP
        found.update({Key(node_id, name): rule for name, rule in starts(init, slots).items()})
    if by_place:
        sums = residual_sums(graph)
        for item in sums:
            if init_at(item.node) == FIXUP:
                found.update(_fixup(graph, item, len(sums)))
        heads = last_layers(graph)
        if heads.isdisjoint(node_id for item in sums for node_id in graph.members(item.block)):  # else no classifier
            for node_id in heads:
                found.update(_all(graph, node_id, ZEROS) if init_at(node_id) == FIXUP else ())
    return found


def block_starts(graph: Graph) -> dict[Key, Fill]:
    """{weight: rule} for blocks that would not be what they are by the defaults of their ops: Fixup's."""
    if not any((region.template or {}).get("init") == FIXUP for region in graph.regions.values()):
        return {}
    return starts_of(graph, lambda node_id: FIXUP if own_init(graph, node_id) == FIXUP else "default")


def renew(draft: Draft, init: str) -> None:
    """Let every weight start anew, by the rules of `init` and else by the default of its op; raises UnknownName.

    Weights of imported modules of which no start is known stay as they are.
    """
    graph = draft.commit()
    own = starts_of(graph, lambda node_id: init)
    for node_id, slots in graph.infer.slots.items():
        if graph.nodes[node_id].facts.foreign:
            continue
        for name, slot in slots.items():
            rule = own.get(Key(node_id, name), slot.init)
            draft.fill(node_id, name, rule.rule, **rule.args)


def settle_starts(draft: Draft, path: str, after: Port) -> None:
    """Let the weights of a block that is added to a network, up to `after`, begin as Fixup has them there.

    Blocks that are there keep theirs, whatever they were scaled for.
    """
    assert draft.base is not None
    nodes, ahead = {}, [after.node]
    while ahead:
        node_id = ahead.pop()
        if node_id not in nodes:
            nodes[node_id] = draft.nodes[node_id]
            ahead += [port.node for port in nodes[node_id].inputs]
    graph = Graph(nodes, (after,), {path: Region(path, "block")}, draft.minted)
    found = residual_sums(graph)
    count = len(residual_sums(draft.base)) + len(found)
    for item in found:
        for key, rule in _fixup(graph, item, count).items():
            draft.fill(key.node, key.slot, rule.rule, **rule.args)


def _fixup(graph: Graph, item: ResidualSum, count: int) -> dict[Key, Fill]:
    """The rules of one branch, and of the projection beside it, in a network of so many branches."""
    found: dict[Key, Fill] = {}
    nodes = branch_nodes(graph, item)
    depth, last = _depth(graph, nodes, item), set(_last(graph, nodes, item))
    for node_id in nodes:
        if node_id in last:
            found.update(_all(graph, node_id, ZEROS))
        elif _has_kernel(graph, node_id):
            rule = Fill(HE.rule, {**HE.args, "gain": count ** (-1.0 / (2 * depth - 2))})
            found.update(_all(graph, node_id, rule))
    if item.projected:
        for node_id in set(graph.members(item.block)) - set(nodes):
            if _has_kernel(graph, node_id) and node_id not in last:
                found.update(_all(graph, node_id, HE))
    return found


def _all(graph: Graph, node_id: int, rule: Fill) -> Iterator[tuple[Key, Fill]]:
    """The kernel by a rule, the bias at zero."""
    for name, slot in graph.infer.slots[node_id].items():
        if slot.is_kernel:
            yield Key(node_id, name), oriented(rule, slot)
        elif slot.kind == "param" and "bias" in slot.tags:
            yield Key(node_id, name), ZEROS


def _has_kernel(graph: Graph, node_id: int) -> bool:
    return any(slot.is_kernel for slot in graph.infer.slots[node_id].values())


def _last(graph: Graph, nodes: tuple[int, ...], item: ResidualSum) -> Iterator[int]:
    """The nodes of a branch with kernels between which and its end there is no other."""
    ahead, inside = [item.branch.node], set(nodes)
    while ahead:
        node_id = ahead.pop()
        if node_id in inside and _has_kernel(graph, node_id):
            yield node_id
        elif node_id in inside:
            ahead += [port.node for port in graph.nodes[node_id].inputs]


def _depth(graph: Graph, nodes: tuple[int, ...], item: ResidualSum) -> int:
    """Layers with kernels on the longest way through a branch."""
    depths: dict[int, int] = {}
    for node_id in nodes:
        before = max([depths.get(port.node, 0) for port in graph.nodes[node_id].inputs], default=0)
        depths[node_id] = before + _has_kernel(graph, node_id)
    return depths.get(item.branch.node, 0)
