"""Canonical order and structural hash: both depend on structure only, never on ids or labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from nasir.errors import GraphError
from nasir.ir.node import Node
from nasir.ir.ties import NO_TIES, Ties, sets_of
from nasir.ir.types import Port


def postorder(nodes: Mapping[int, Node], outputs: tuple[Port, ...]) -> tuple[int, ...]:
    """Depth-first postorder from the outputs, inputs in their order: topological and canonical.

    Raises GraphError when a node reads a missing node, lies on a cycle, or reaches no output.
    """
    done: dict[int, None] = {}
    open_: set[int] = set()
    stack: list[int] = [port.node for port in reversed(outputs)]
    while stack:
        node_id = stack[-1]
        if node_id in done:
            stack.pop()
            continue
        try:
            node = nodes[node_id]
        except KeyError:
            raise GraphError(f"port of node {node_id}, which does not exist: rewire its readers") from None
        missing = None
        for port in node.inputs:
            if port.node not in done:
                missing = [port.node for port in node.inputs if port.node not in done]
                break
        if missing is None:
            stack.pop()
            open_.discard(node_id)
            done[node_id] = None
            continue
        open_.add(node_id)
        for source in missing:
            if source in open_:
                labels = f"'{nodes[source].label}' and '{node.label}'"
                raise GraphError(f"{labels} lie on a cycle: a network must not feed back into itself")
        stack.extend(reversed(missing))
    if len(done) != len(nodes):
        unused = [nodes[node_id].label for node_id in nodes if node_id not in done]
        raise GraphError(f"no output uses {quoted(unused)}: remove them or connect them")
    return tuple(done)


def quoted(labels: Iterable[str], most: int = 4) -> str:
    """A short enumeration of labels for messages."""
    names = [f"'{label}'" for label in labels]
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def digest(nodes: Mapping[int, Node], order: tuple[int, ...], outputs: tuple[Port, ...], ties: Ties = NO_TIES) -> str:
    """sha256 over (op, attributes, inputs) of the canonically numbered nodes, the outputs, and what is shared."""
    number = {node_id: index for index, node_id in enumerate(order)}
    lines = []
    heads: dict[tuple[str, int], str] = {}  # by op and id of the attributes: many nodes have the same
    for node_id in order:
        node = nodes[node_id]
        alike = (node.op, id(node.attrs))
        head = heads.get(alike)
        if head is None:
            # attributes are stored normalized and in declaration order, so their repr is canonical
            head = heads[alike] = f"{node.op}{tuple(node.facts.stated(node.attrs).items())}"
        lines.append(f"{head}{[(number[port.node], port.output) for port in node.inputs]}")
    lines.append(repr([(number[port.node], port.output) for port in outputs]))
    if ties:  # which of the nodes owns the array makes no difference
        lines.append(repr(sorted(sorted((number[key.node], key.slot) for key in members) for members in sets_of(ties))))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
