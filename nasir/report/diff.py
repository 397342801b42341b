"""What changed between two graphs, in words: stages, blocks, nodes, widths, cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from nasir.counted import counted
from nasir.ir import Graph, Port


@dataclass(frozen=True, slots=True)
class Difference:
    """One change: `kind` is stage, added, removed, changed or cost."""

    kind: str
    where: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.kind == "added":
            return f"+ {self.where}: {self.after}"
        if self.kind == "removed":
            return f"- {self.where}: {self.before}"
        return f"~ {self.where}: {_figure(self.before)} -> {_figure(self.after)}"


SHORT = 6  # differences that a summary lists one by one


def summary(before: Graph, after: Graph) -> tuple[str, ...]:
    """The changes in a few lines: depths, blocks, the widths of each kind of layer from and to, and the cost."""
    changes = difference(before, after)
    if len(changes) <= SHORT:
        return tuple(map(str, changes))
    lines = [str(change) for change in changes if change.kind == "stage"]
    for kind, sign in (("added", "+"), ("removed", "-")):
        places = [change.where for change in changes if change.kind == kind]
        blocks = [place.removeprefix("block ") for place in places if place.startswith("block ")]
        nodes = [place for place in places if not place.startswith("block ")]
        lines += [f"{sign} {_named(some, noun)}" for some, noun in ((blocks, "block"), (nodes, "node")) if some]
    lines += _resized(before, after, [change for change in changes if change.kind == "changed"])
    for change in changes:
        if change.kind == "cost":
            lines.append(f"{change} ({100 * (change.after / max(change.before, 1) - 1):+.0f} %)")
    return (*lines, f"({counted(len(changes), 'difference')}; -v lists each)")


def _named(places: Sequence[str], noun: str) -> str:
    more = ", ..." if len(places) > SHORT else ""
    return f"{counted(len(places), noun)}: {', '.join(places[:SHORT])}{more}"


def _resized(before: Graph, after: Graph, changes: Sequence[Difference]) -> list[str]:
    """A line for each kind of layer with weights, and one for all that only follows them."""
    layers: list[tuple[str, int, int]] = []  # kind, width before and after
    followers: list[str] = []
    others: list[str] = []  # what is frozen, what is read
    for change in changes:
        old, new = before.labels.get(change.where), after.labels.get(change.where)
        if old is None or new is None:
            others.append(str(change))
        elif after.nodes[new].facts.convolves:
            layers.append((after.nodes[new].op, _width(before, old), _width(after, new)))
        else:
            followers.append(after.nodes[new].op)
    lines = []
    for kind, same in groupby(sorted(layers), itemgetter(0)):
        _, was, now = zip(*same, strict=True)
        lines.append(f"~ {counted(len(was), 'layer')} {kind}: widths {_span(was)} -> {_span(now)}")
    if followers:
        lines.append(f"~ {counted(len(followers), 'node')} that follow them: {', '.join(dict.fromkeys(followers))}")
    return lines + others


def _width(graph: Graph, node_id: int) -> int:
    """Units of a node's output: channels, or features."""
    return graph.infer.types[Port(node_id)].shape[0]


def _span(widths: Iterable[int]) -> str:
    known = sorted(widths)
    return f"{known[0]}" if known[0] == known[-1] else f"{known[0]} to {known[-1]}"


def _figure(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def difference(before: Graph, after: Graph) -> tuple[Difference, ...]:
    """All changes from one graph to another, by label; empty when the architectures are equal."""
    same = before.digest == after.digest and before.labels.keys() == after.labels.keys()
    if same and before.frozen == after.frozen:
        return ()
    differences = [*_stages(before, after), *_blocks(before, after), *_nodes(before, after)]
    if not differences and before.digest != after.digest:
        differences = _wiring(before, after)
    if before.frozen != after.frozen:
        old_names, new_names = (", ".join(graph.frozen) or "nothing" for graph in (before, after))
        differences.append(Difference("changed", "frozen", old_names, new_names))
    old, new = before.cost(), after.cost()
    for name in ("params", "macs"):
        if getattr(old, name) != getattr(new, name):
            differences.append(Difference("cost", name, getattr(old, name), getattr(new, name)))
    return tuple(differences)


def _stages(before: Graph, after: Graph) -> list[Difference]:
    old, new = before.depths(), after.depths()
    return [
        Difference("stage", f"depth of {stage}", old.get(stage, 0), new.get(stage, 0))
        for stage in {**old, **new}
        if old.get(stage) != new.get(stage)
    ]


def _blocks(before: Graph, after: Graph) -> list[Difference]:
    old = {block.path for block in before.blocks}
    new = {block.path for block in after.blocks}
    added = [
        Difference("added", f"block {b.path}", None, _block(after, b.path)) for b in after.blocks if b.path not in old
    ]
    gone = [
        Difference("removed", f"block {b.path}", _block(before, b.path), None)
        for b in before.blocks
        if b.path not in new
    ]
    return [*added, *gone]


def _block(graph: Graph, path: str) -> str:
    ops = " ".join(graph.nodes[node_id].op for node_id in graph.members(path))
    return f"{ops} ({graph.cost(path).params:,} params)"


def _nodes(before: Graph, after: Graph) -> list[Difference]:
    """Nodes outside added and removed blocks."""
    old_blocks, new_blocks = {b.path for b in before.blocks}, {b.path for b in after.blocks}
    whole = old_blocks ^ new_blocks
    differences = []
    for label in {**before.labels, **after.labels}:
        if any(label.startswith(path + ".") for path in whole):
            continue
        a, b = before.labels.get(label), after.labels.get(label)
        was = None if a is None else _node(before, a)
        now = None if b is None else _node(after, b)
        if was is None:
            differences.append(Difference("added", label, None, now))
        elif now is None:
            differences.append(Difference("removed", label, was, None))
        elif was != now:
            differences.append(Difference("changed", label, was, now))
    return differences


def _wiring(before: Graph, after: Graph) -> list[Difference]:
    """Nodes that read something else, and the outputs; told only where nothing else differs, as growth rewires too."""
    differences = []
    for label, node_id in before.labels.items():
        was = _sources(before, before.nodes[node_id].inputs)
        now = _sources(after, after.nodes[after.labels[label]].inputs)
        if was != now:
            differences.append(Difference("changed", f"inputs of {label}", was, now))
    was, now = _sources(before, before.outputs), _sources(after, after.outputs)
    if was != now:
        differences.append(Difference("changed", "outputs", was, now))
    return differences


def _sources(graph: Graph, ports: tuple[Port, ...]) -> str:
    return ", ".join(f"{graph.nodes[port.node].label}:{port.output}" for port in ports)


def _node(graph: Graph, node_id: int) -> str:
    node = graph.nodes[node_id]
    attrs = ", ".join(f"{name} {value}" for name, value in node.attrs.items())
    shape = "x".join(map(str, graph.infer.types[Port(node_id)].shape))
    return f"{node.op}({attrs}) {shape}"
