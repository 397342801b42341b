"""Parts of a network: all that follows a place, the classifier, and a place where two widths may part."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from nasir.ir import Draft, Graph, Port


def outputs_of(graph: Graph, node_id: int) -> Iterator[Port]:
    """The output ports of a node."""
    port = Port(node_id)
    while port in graph.infer.types:
        yield port
        port = Port(node_id, port.output + 1)


def downstream(graph: Graph, site: str) -> tuple[int, ...]:
    """Ids of all nodes that depend on what the region `site` reads, with the weights that they alone use as values, in
    topological order.

    Raises GraphError for an unknown region and for one without a single entry.
    """
    entry, _ = graph.boundary(site)
    reached: set[int] = set()
    for node_id in graph.order:
        inputs = graph.nodes[node_id].inputs
        if entry in inputs or any(port.node in reached for port in inputs):
            reached.add(node_id)
    for node_id in reversed(graph.order):
        if node_id in graph.independent and reached.issuperset(graph.users(node_id)):
            reached.add(node_id)
    return tuple([node_id for node_id in graph.order if node_id in reached])


def head_of(graph: Graph) -> int | None:
    """The node whose weights write the (first) output: the classifier; None where there is not one such node."""
    node_id = graph.outputs[0].node
    while not graph.infer.slots[node_id]:
        inputs = graph.nodes[node_id].inputs
        if len(inputs) != 1:
            return None
        node_id = inputs[0].node
    return node_id


def separated(graph: Graph, nodes: Collection[int]) -> tuple[Graph, tuple[int, ...]]:
    """(graph, nodes) in which no sum of `nodes` reads a value from outside: the two may then differ in width.

    An identity shortcut over the border gets a projection, a 1x1 convolution and a batch norm (so RRR-Net where the
    networks part within a stage). The given graph itself where there is no such shortcut.
    """
    draft = graph.draft()
    inside = set(nodes)
    added: list[int] = []
    for node_id in nodes:
        node = graph.nodes[node_id]
        outer = [port for port in node.inputs if port.node not in inside]
        outer = [port for port in outer if port.node not in graph.independent]
        if not node.facts.unifies or not outer or len(outer) == len(node.inputs):
            continue
        for port in dict.fromkeys(outer):
            shape = graph.infer.types[port].shape
            if len(shape) != 3:
                continue
            label = _free(draft, node.label.rpartition(".")[0])
            conv = draft.add("conv2d", port, f"{label}.0", out=shape[0], kernel=1)
            norm = draft.add("batch_norm", conv, f"{label}.1")
            draft.rewire(port, norm, only=[node_id])
            for path in graph.owners[node_id]:
                draft.join(path, label)
            added += [conv.node, norm.node]
    if not added:
        return graph, tuple(nodes)
    new = draft.commit()
    inside.update(added)
    return new, tuple([node_id for node_id in new.order if node_id in inside])


def _free(draft: Draft, path: str) -> str:
    """`path.downsample`, as torchvision calls a projection, or the same with a number where that is taken."""
    stem = f"{path}.downsample" if path else "downsample"
    used = [node.label for node in draft.nodes.values()]
    label, number = stem, 1
    while any(other == label or other.startswith(f"{label}.") for other in used):
        number += 1
        label = f"{stem}{number}"
    return label
