"""Operands and outputs that are other values in training than in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from nasir.importing.recording import Call, Mode, Ref, Switch, Tree
from nasir.importing.trees import in_mode, parts_of, rebuilt, refs

Joined = Callable[[int, int], int]
"""(value in evaluation, value in training) -> the value that is the one or the other."""


def with_joined(call: Call, alike: Callable[[int, int], bool], join: Joined) -> Call | None:
    """The call with one value in the place of two of the modes; None where two are not `alike`: it is two calls."""
    if not _joinable((call.args, dict(call.kwargs)), alike):
        return None
    return replace(call, args=_joined(call.args, join), kwargs=_joined(dict(call.kwargs), join))


def of_mode(call: Call, mode: Mode) -> Call:
    """The call as it is made in one mode."""
    return replace(call, args=in_mode(call.args, mode), kwargs=in_mode(dict(call.kwargs), mode), only=mode)


def modes_of(tree: Tree) -> dict[int, Mode | None]:
    """The values in a tree by their numbers, with the one mode in which they are there; None: in both."""
    found: dict[int, set[Mode | None]] = {}
    for number, mode in _placed(tree, None):
        found.setdefault(number, set()).add(mode)
    return {number: next(iter(modes)) if len(modes) == 1 else None for number, modes in found.items()}


def _placed(tree: Tree, mode: Mode | None) -> Iterator[tuple[int, Mode | None]]:
    if isinstance(tree, Ref):
        yield tree.number, mode
    elif isinstance(tree, Switch):
        yield from _placed(tree.eval, mode or "eval")
        yield from _placed(tree.train, mode or "train")
    else:
        for _, part in parts_of(tree) or ():
            yield from _placed(part, mode)


def _joined(tree: Tree, join: Joined) -> Tree:
    if isinstance(tree, Switch) and isinstance(tree.eval, Ref) and isinstance(tree.train, Ref):
        return Ref(join(tree.eval.number, tree.train.number))
    parts = parts_of(tree)
    if parts is None or isinstance(tree, Switch):
        return tree
    return rebuilt(tree, [_joined(part, join) for _, part in parts])


def _joinable(tree: Tree, alike: Callable[[int, int], bool]) -> bool:
    """Whether one value can take the place of each two; numbers that depend on the mode are no matter."""
    if isinstance(tree, Switch):
        if isinstance(tree.eval, Ref) and isinstance(tree.train, Ref):
            return alike(tree.eval.number, tree.train.number)
        return not refs(tree)
    return all(_joinable(part, alike) for _, part in parts_of(tree) or ())
