"""What an imported network holds that no rule types: why it pins what it touches, and how that is changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nasir.counted import counted
from nasir.ir import Graph, Node
from nasir.ir.space import atoms_of
from nasir.training.modules import Untyped

MOST = 5
"""Names in one line."""


def untyped_lines(graph: Graph, places: Mapping[str, Untyped]) -> Iterator[str]:
    """Lines for a terminal, none for a network that is typed as a whole; `places`: by label, what is known of nodes."""
    nodes = {node_id: node for node_id, node in graph.nodes.items() if node.facts.family == "opaque"}
    if not nodes:
        return
    spaces = graph.infer.spaces
    free = sum(space.resizable for space in spaces)
    yield f"spaces: {free} of {len(spaces)} can be resized"
    yield ""
    yield f"{counted(len(nodes), 'call')} without a rule: they run as they are, and what they touch keeps its size"
    kinds: dict[str, list[int]] = {}
    for node_id, node in nodes.items():
        kinds.setdefault(str(node.attrs["runs"]), []).append(node_id)
    for runs, members in kinds.items():
        labels = [nodes[node_id].label for node_id in members]
        yield f"  {runs}"
        yield f"    where   {_some([_placed(label, places) for label in labels], 1)}"
        yield f"    pins    {_some(_pinned(graph, [nodes[n] for n in members], labels)) or 'nothing more'}"
        if any(node.attrs["macs"] is None for node in map(nodes.__getitem__, members)):
            yield "    MACs    not known, counted as 0"
        yield f'    a rule  @nasir.importing.rule("{runs}")'
    yield "(what a rule is and where it goes: docs/importing.md, Rules of your own)"


def _placed(label: str, places: Mapping[str, Untyped]) -> str:
    return f"{label}: {places[label].place}" if label in places else label


def _pinned(graph: Graph, nodes: list[Node], labels: list[str]) -> list[str]:
    """Spaces that run over the inputs of the nodes, by who writes them."""
    own = set(labels)
    names: dict[str, None] = {}
    for node in nodes:
        for port in node.inputs:
            for axis in graph.infer.types[port].axes:
                names |= {f"{a.name} ({a.size})": None for a in atoms_of(axis) if a.name and a.name not in own}
    return list(names)


def _some(texts: list[str], most: int = MOST) -> str:
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
