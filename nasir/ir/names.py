"""Names of weights in a `state_dict`: `label.slot` of each node that uses one, or those that its user gave it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import TypeAlias

from nasir.errors import GraphError
from nasir.ir.infer import Typing
from nasir.ir.node import Node
from nasir.ir.source import Key
from nasir.ir.ties import Ties, sets_of

Names: TypeAlias = Mapping[Key, tuple[str, ...]]
"""All names of an array, by its owner, where they are not the labels and slots of the nodes that use it."""


def left_names(names: Names, ties: Ties, nodes: Collection[int]) -> dict[Key, tuple[str, ...]]:
    """The names of the arrays that are left; where the owner is gone, another node owns the array, as `ties.left` says.

    `ties`: those before nodes were removed. An array that was given up for another one takes its names along.
    """
    members = {keys[0]: keys for keys in sets_of(ties)}
    kept: dict[Key, tuple[str, ...]] = {}
    for key, given in names.items():
        there = [] if key in ties else [k for k in members.get(key, (key,)) if k.node in nodes]
        if there:
            kept[there[0]] = given
    return kept


def named(nodes: Mapping[int, Node], typing: Typing, names: Names) -> Iterator[tuple[str, Key]]:
    """(name, array) of all that is in the `state_dict` of a network."""
    for node_id, slots in typing.slots.items():
        for name, slot in slots.items():
            key = Key(node_id, name)
            if slot.stored:
                for given in names.get(key, (f"{nodes[node_id].label}.{name}",)):
                    yield given, key
    for node_id, borrowed in typing.borrowed.items():
        for name, (owner, slot) in borrowed.items():
            if slot.stored and owner not in names:
                yield f"{nodes[node_id].label}.{name}", owner


def verify_names(nodes: Mapping[int, Node], typing: Typing, names: Names) -> None:
    """GraphError for names of arrays that there are not, and for a name that two arrays have."""
    for key, given in names.items():
        if key.slot not in typing.slots.get(key.node, ()) or not given:
            raise GraphError(
                f"names {list(given)} of {tuple(key)}: no node owns such a weight; name those that one owns"
            )
    if names:
        times = Counter(name for name, _ in named(nodes, typing, names))
        twice = [name for name, count in times.items() if count > 1]
        if twice:
            raise GraphError(f"two weights are called '{twice[0]}': names in a state_dict must be unique")
