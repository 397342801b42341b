"""Weights that several nodes share: one array, which one of the nodes owns and the others borrow.

A layer that a network calls twice is two nodes; an embedding may share its table with the layer that undoes it. The
array is one parameter with one optimizer state, counted once, and whatever runs over its axes is one space.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from nasir.errors import GraphError, TypeRuleError
from nasir.ir.source import Key
from nasir.ir.space import mix
from nasir.ir.types import Slot
from nasir.ir.unify import SpaceMismatch, unify

if TYPE_CHECKING:
    from nasir.ir.node import Node

Ties: TypeAlias = Mapping[Key, Key]
"""The owner of each borrowed weight; an owner borrows nothing."""
Borrowed: TypeAlias = tuple[Key, Slot]
NO_TIES: Ties = MappingProxyType({})


def sets_of(ties: Ties) -> list[list[Key]]:
    """The weights that are one array, the owner first."""
    members: dict[Key, list[Key]] = {}
    for key, owner in ties.items():
        members.setdefault(owner, [owner]).append(key)
    return list(members.values())


def left(ties: Ties, nodes: Collection[int]) -> dict[Key, Key]:
    """The ties of the nodes that are left: where the owner is gone, the first of those that borrowed owns the array."""
    kept: dict[Key, Key] = {}
    for members in sets_of(ties):
        there = [key for key in members if key.node in nodes]
        kept.update({key: there[0] for key in there[1:]})
    return kept


def share(
    nodes: Mapping[int, Node], slots: Mapping[int, dict[str, Slot]], ties: Ties
) -> dict[int, dict[str, Borrowed]]:
    """Take the borrowed weights from the slots of their nodes, and make their axes run over the owner's spaces.

    Returns them by node and name, with what the node's op says of them.
    Raises GraphError for a weight that there is not, TypeRuleError where the two are no one array.
    """
    for key, owner in ties.items():
        for end in (key, owner):
            if end.slot not in slots.get(end.node, ()):
                raise GraphError(
                    f"tie of {_name(nodes, key)} to {_name(nodes, owner)}: there is no {_name(nodes, end)}"
                )
        mine, theirs = slots[key.node][key.slot], slots[owner.node][owner.slot]
        what = f"'{_name(nodes, key)}' shares '{_name(nodes, owner)}'"
        for fact in ("shape", "kind", "dtype"):
            here, there = getattr(mine, fact), getattr(theirs, fact)
            if here != there:
                raise TypeRuleError(f"{what}, but they differ in {fact}: {here} and {there}; remove the tie")
        try:
            for (left_axis, role), (right_axis, other) in zip(mine.axes, theirs.axes, strict=True):
                unify(right_axis, left_axis, what)
                if "read" in (role, other) and role != other:  # copies of units halve what is read, and only that
                    mix(right_axis, nodes[key.node].label)
        except SpaceMismatch:
            raise TypeRuleError(f"{what}, but their axes cannot be resized alike; remove the tie") from None
    borrowed: dict[int, dict[str, Borrowed]] = {}
    for key, owner in ties.items():
        borrowed.setdefault(key.node, {})[key.slot] = (owner, slots[key.node].pop(key.slot))
    return borrowed


def _name(nodes: Mapping[int, Node], key: Key) -> str:
    return f"{nodes[key.node].label}.{key.slot}" if key.node in nodes else f"node {key.node}.{key.slot}"
