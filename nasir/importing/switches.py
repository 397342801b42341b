"""Operands and outputs that are other values in training than in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from nasir.importing.recording import Call, Mode, Ref, Switch, Tree
from nasir.importing.trees import in_mode, parts_of, rebuilt, refs

Joined = Callable[[int, int], int | None]
"""(value in evaluation, value in training) -> the value that is one of both; None where they differ in type."""


def with_joined(call: Call, join: Joined) -> Call | None:
    """The call with one value in the place of two of the modes; None where that cannot be: it is two calls then."""
    args, kwargs = _joined(call.args, join), _joined(dict(call.kwargs), join)
    return None if _switches((args, kwargs)) else replace(call, args=args, kwargs=kwargs)


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
        number = join(tree.eval.number, tree.train.number)
        return tree if number is None else Ref(number)
    parts = parts_of(tree)
    if parts is None or isinstance(tree, Switch):
        return tree
    return rebuilt(tree, [_joined(part, join) for _, part in parts])


def _switches(tree: Tree) -> bool:
    """Whether values still depend on the mode; numbers that do are no matter."""
    if isinstance(tree, Switch):
        return bool(refs(tree))
    return any(_switches(part) for _, part in parts_of(tree) or ())
