"""Widths of layers that are not tied: every layer has its own, and sums pad their narrower operands (ResBuilder).

The released code of ResBuilder writes networks down as lists of layers with a width each; whatever meets in a sum is
brought to the larger number of channels by zero channels at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nasir.errors import TypeRuleError
from nasir.ir.graph import Draft, Graph
from nasir.ir.space import atoms_of
from nasir.ir.types import Port, kernel_of

NARROW = 1e-9  # relative width of the bracket in which the search for a factor ends
FASTEST = 1 << 20  # no network grows by more


def set_widths(draft: Draft, widths: Mapping[int, int]) -> None:
    """Give convolutions and linear layers new output widths and mend every sum; weights are not transferred.

    `widths`: {node id: output channels}, each at least 1. Raises TypeRuleError where the channels of a network are tied
    by anything but sums: groups, products, splits.
    """
    graph = draft.base
    assert graph is not None
    for node_id in graph.order:
        node = draft.nodes.get(node_id)
        if node is None:
            continue
        if node_id in widths:
            if node.attrs.get("groups", 1) != 1:
                raise TypeRuleError(f"{node.op} '{node.label}': a grouped convolution's width is tied to its input")
            draft.set_attrs(node_id, out=widths[node_id])
        elif node.facts.adds:
            _mend(draft, graph, node_id)


def own_widths(graph: Graph) -> dict[int, int]:
    """{node id: output channels} of the layers whose width may be chosen.

    Not those that write the output of the network, nor the convolutions that shortcuts end in: a sum decides on these.
    Nor layers that share a weight with another one.
    """
    widths: dict[int, int] = {}
    for node_id in graph.order:
        node = graph.nodes[node_id]
        kernel = kernel_of(graph.infer.slots[node_id])
        if node.facts.family != "weighted" or kernel is None or node.attrs.get("groups", 1) != 1:
            continue
        if node_id in graph.sharing:
            continue
        slot = graph.infer.slots[node_id][kernel]
        written = slot.axes[slot.axis("write")].space
        if not is_shortcut(graph, node_id) and all(atom.resizable for atom in atoms_of(written)):
            widths[node_id] = int(node.attrs["out"])
    return widths


def is_shortcut(graph: Graph, node_id: int) -> bool:
    """Whether a node is a strided 1x1 convolution that goes straight into a sum."""
    node = graph.nodes[node_id]
    if node.facts.family != "weighted" or not {"kernel", "stride"} <= node.attrs.keys():
        return False
    if node.attrs["kernel"] != 1 or node.attrs["stride"] == 1:
        return False
    users = graph.users(node_id)
    return bool(users) and all(graph.nodes[user].facts.adds for user in users)


def _mend(draft: Draft, graph: Graph, node_id: int) -> None:
    """Bring all operands of a sum to the channels of the widest, by zero channels at their ends."""
    node = draft.nodes[node_id]
    path = node.label.rpartition(".")[0]
    operands = [_bare(draft, port, path) for port in node.inputs]
    shortcuts = [port.node in graph.nodes and is_shortcut(graph, port.node) for port in operands]
    sources = [
        _bare(draft, draft.nodes[port.node].inputs[0], path) if shortcut else port
        for port, shortcut in zip(operands, shortcuts, strict=True)
    ]
    channels = [draft.shape(source)[0] for source in sources]
    widest = max(channels)
    mended: list[Port] = []
    replaced = list(node.inputs)
    for index, (port, source) in enumerate(zip(operands, sources, strict=True)):
        padded, missing = source, widest - channels[index]
        if missing:
            padded = draft.add("pad_channels", source, f"{node.label}_pad{index}", after=missing)
        if shortcuts[index]:  # a 1x1 convolution on the padded input
            replaced += draft.nodes[port.node].inputs
            draft.rewire_node(port.node, (padded,))
            draft.set_attrs(port.node, out=widest)
            padded = port
        mended.append(padded)
    draft.rewire_node(node_id, mended)
    for port in replaced:
        _drop_unread(draft, port)


def _bare(draft: Draft, port: Port, path: str) -> Port:
    """What a value is without the zero channels that were put at its end below `path`, where the sum is."""
    node = draft.nodes[port.node]
    while node.facts.family == "pad" and not node.attrs["before"] and (not path or node.label.startswith(f"{path}.")):
        port = node.inputs[0]
        node = draft.nodes[port.node]
    return port


def _drop_unread(draft: Draft, port: Port) -> None:
    """Delete padding that nothing reads any more, and what only it read."""
    while port.node in draft.nodes and draft.nodes[port.node].facts.family == "pad":
        if port in draft.outputs or any(port in node.inputs for node in draft.nodes.values()):
            return
        source = draft.nodes[port.node].inputs[0]
        draft.remove(port.node)
        port = source


def largest_factor(fits: Callable[[float], bool]) -> float:
    """The largest factor (from below, to nine digits) that `fits`; 0 when none does. `fits` must be monotone."""
    low, high = 0.0, 1.0
    while fits(high):
        low, high = high, 2.0 * high
        if high > FASTEST:
            return low
    while high - low > NARROW * high and high > NARROW:
        middle = 0.5 * (low + high)
        if fits(middle):
            low = middle
        else:
            high = middle
    return low
