"""Chains of concatenations over a growing value, as of densely connected networks: each adds to the one before it."""

from __future__ import annotations

from collections.abc import Mapping

from nasir.ir import Draft, Graph, Port, Region
from nasir.ir.regions import borders, owners


def joined_step_by_step(draft: Draft, modules: Mapping[str, str]) -> Graph:
    """The graph of the draft, in which concatenations of what another one concatenates, and more, go on from that.

    So `cat(a, b)`, `cat(a, b, c)` become `ab = cat(a, b)`, `cat(ab, c)`, whose numbers are the same ones. What puts the
    new part beside the value that it was made of then lies in the module that makes it, which begins and ends at one
    value. A concatenation of one value is that value. `modules`: paths of those that may hold one.
    """
    links = _link(draft)
    graph = draft.commit()
    if not links:
        return graph
    tried = {path: Region(path, "block") for path in modules if path}
    outside: dict[int, tuple[str, ...]] = dict.fromkeys(links, ())  # the links themselves lie in the next module
    crossing = borders(graph.nodes, graph.order, graph.outputs, tried, {**owners(graph.nodes, tried), **outside})
    maker: dict[tuple[Port, Port], str] = {}  # of what a module makes alone of one value, the outermost module
    for path in sorted(tried, key=len, reverse=True):
        entries, exits = crossing[path]
        if len(entries) == 1 and len(exits) == 1:
            maker[next(iter(entries)), next(iter(exits))] = path
    for node_id in links:
        inputs = graph.nodes[node_id].inputs
        home = maker.get((inputs[0], inputs[1])) if len(inputs) == 2 else None
        if home is not None:
            draft.relabel(node_id, _free(graph, f"{home}.concat"))
    return draft.commit()


def _link(draft: Draft) -> list[int]:
    """Rewire the concatenations; returns those that are links of a chain."""
    known: dict[tuple[Port, ...], int] = {}
    links: dict[int, None] = {}
    for node_id, node in list(draft.nodes.items()):
        if node.facts.family != "concat":
            continue
        inputs = draft.nodes[node_id].inputs
        if len(inputs) == 1:
            draft.rewire(Port(node_id), inputs[0])
            draft.remove(node_id)
            continue
        known[inputs] = node_id
        for count in range(len(inputs) - 1, 1, -1):
            before = known.get(inputs[:count])
            if before is not None and draft.nodes[before].attrs == node.attrs:
                draft.rewire_node(node_id, (Port(before), *inputs[count:]))
                links.update({before: None, node_id: None})
                break
    return list(links)


def _free(graph: Graph, wanted: str) -> str:
    label, number = wanted, 1
    while label in graph.labels:
        number += 1
        label = f"{wanted}_{number}"
    return label
