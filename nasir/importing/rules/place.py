"""What a rule sees of a recorded call, what it answers, and the table of rules.

A rule is asked for calls whose tensors all have the batch as their first axis. What no rule takes becomes an opaque
node, so a rule refuses (None) whatever it does not say exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from nasir.importing.recording import Call, Ref, Tree
from nasir.ir import JSON, ValueType


@dataclass(frozen=True, slots=True)
class Typed:
    """The op that a call is, its attributes, and which of its operands are the inputs, by number of the value."""

    op: str
    inputs: tuple[int, ...]
    attrs: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class Place:
    """What a rule sees: the call, the types of values so far, and the names of the leaf's parameters and buffers."""

    call: Call
    types: Callable[[int], ValueType]
    weights: frozenset[str]

    @property
    def first(self) -> int | None:
        """Number of the first operand, if that is a tensor; of the first of a list of them."""
        named = self.call.kwargs.get("input", self.call.kwargs.get("tensors"))
        operand = self.call.args[0] if self.call.args else named
        if isinstance(operand, tuple | list) and operand:
            operand = operand[0]
        return operand.number if isinstance(operand, Ref) else None

    def options(self, **defaults: Tree) -> dict[str, Tree] | None:
        """Attributes of a leaf, or the operands of a function behind its first one, which has them in this order.

        None where a function is given others.
        """
        if self.call.module is not None:
            return {name: self.call.attributes.get(name, default) for name, default in defaults.items()}
        if len(self.call.args) > len(defaults) + 1 or self.call.kwargs.keys() - defaults.keys() - {"input"}:
            return None
        return {name: self.given(n, name, default) for n, (name, default) in enumerate(defaults.items(), start=1)}

    def given(self, position: int, name: str, default: Tree) -> Tree:
        """An operand by its position or name."""
        args = self.call.args
        return args[position] if len(args) > position else self.call.kwargs.get(name, default)


Rule: TypeAlias = Callable[[Place, int, ValueType], Typed | None]
RULES: dict[str, Rule] = {}


def rule(*operations: str) -> Callable[[Rule], Rule]:
    """Register `function(place, x, type)` for operations whose first operand is a tensor `x`, or a list of them."""

    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operations, function))
        return function

    return add


def typed(place: Place) -> Typed | None:
    """The op of a call; None where no rule takes it."""
    found = RULES.get(place.call.operation)
    first = place.first
    if found is None or first is None or not place.call.gradient or place.call.autocast is not None:
        return None
    return found(place, first, place.types(first))


def plain(op: str, *operations: str) -> None:
    """Operations that are an op without attributes; another operand than `inplace` makes it something else."""

    @rule(*operations)
    def take(place: Place, x: int, value: ValueType) -> Typed | None:
        odd = len(place.call.args) > 1 or place.call.kwargs.keys() - {"input", "inplace"}
        return None if odd else Typed(op, (x,), {})


def whole(*values: Tree) -> bool:
    """Whether each is a whole number, or several, whatever mode and batch."""
    return all(type(part) is int for v in values for part in (v if isinstance(v, tuple | list) and v else (v,)))
