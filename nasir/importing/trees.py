"""Walks over the trees of a recording: their leaves, and trees of the same form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nasir.importing.recording import SLICE, Mode, Ref, Structure, Switch, Symbol, Tree


def parts_of(tree: Tree) -> tuple[tuple[str, Tree], ...] | None:
    """The parts of a container by name or position; None for a leaf."""
    if isinstance(tree, (tuple, list)):
        return tuple([(str(position), part) for position, part in enumerate(tree)])
    if isinstance(tree, dict):
        return tuple([(str(key), part) for key, part in tree.items()])
    if isinstance(tree, Structure):
        return tree.parts
    if isinstance(tree, Switch):
        return (("eval", tree.eval), ("train", tree.train))
    return None


def rebuilt(tree: Tree, parts: list[Tree]) -> Tree:
    """A container like `tree` around other parts."""
    if isinstance(tree, tuple):
        return tuple(parts)
    if isinstance(tree, list):
        return parts
    if isinstance(tree, dict):
        return dict(zip(tree, parts, strict=True))
    if isinstance(tree, Structure):
        return Structure(tree.kind, tuple(zip([name for name, _ in tree.parts], parts, strict=True)))
    return Switch(*parts)


def leaves(tree: Tree, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with its path: names and positions joined by dots, from the outside in."""
    parts = parts_of(tree)
    if parts is None:
        yield path, tree
        return
    for name, part in parts:
        yield from leaves(part, f"{path}.{name}" if path else name)


def mapped(change: Callable[[Any], Tree], tree: Tree) -> Tree:
    """The tree with `change(leaf)` in the place of every leaf."""
    parts = parts_of(tree)
    return change(tree) if parts is None else rebuilt(tree, [mapped(change, part) for _, part in parts])


def form(tree: Tree) -> Tree:
    """What two trees have in common whose leaves differ: hashable, equal for trees of one form."""
    parts = parts_of(tree)
    if parts is None:
        return "ref" if isinstance(tree, Ref) else "leaf"
    kind = tree.kind if isinstance(tree, Structure) else type(tree).__name__
    return (kind, tuple([(name, form(part)) for name, part in parts]))


def merged(change: Callable[[Any, Any], Tree], one: Tree, other: Tree) -> Tree:
    """`change(leaf, leaf)` for the leaves of two trees in the same place; called on parts whose forms differ, too."""
    parts, others = parts_of(one), parts_of(other)
    same = parts is not None and others is not None and type(one) is type(other)
    if not same or [name for name, _ in parts or ()] != [name for name, _ in others or ()]:
        return change(one, other)
    if isinstance(one, Structure) and one.kind != other.kind:
        return change(one, other)
    pairs = zip(parts or (), others or (), strict=True)
    return rebuilt(one, [merged(change, part, counterpart) for (_, part), (_, counterpart) in pairs])


def in_mode(tree: Tree, mode: Mode) -> Tree:
    """The tree without Switches."""
    if isinstance(tree, Switch):
        return in_mode(tree.of(mode), mode)
    parts = parts_of(tree)
    return tree if parts is None else rebuilt(tree, [in_mode(part, mode) for _, part in parts])


def names_in(tree: Tree) -> Iterator[str]:
    """Names of the classes and constants of libraries in the tree."""
    if isinstance(tree, Symbol):
        yield tree.name
    if isinstance(tree, Structure) and tree.kind != SLICE:
        yield tree.kind
    for _, part in parts_of(tree) or ():
        yield from names_in(part)


def refs(tree: Tree) -> list[int]:
    """Numbers of all values in the tree, of both modes."""
    return [leaf.number for _, leaf in leaves(tree) if isinstance(leaf, Ref)]


def same(one: Any, other: Any) -> bool:
    """Whether two leaves are the same: of one type, equal, NaN like NaN."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if type(one) is not type(other):
        return False
    return bool(one == other) or (one != one and other != other)


def same_trees(one: Tree, other: Tree) -> bool:
    """Whether two trees have the same leaves in the same places."""
    pairs = zip(leaves(one), leaves(other), strict=False)
    return form(one) == form(other) and all(same(a, b) for (_, a), (_, b) in pairs)
