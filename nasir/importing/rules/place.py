"""What a rule sees of a recorded call, what it answers, and the table of rules.

A rule is asked for calls whose tensors have the batch as their first axis, or none, as parameters and what is made of
them. What no rule takes becomes an opaque node, so a rule refuses (None) whatever it does not say exactly. Calls with
inputs that the op does not take, because they have no batch axis or are no floating-point numbers, are refused for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import isfinite
from typing import TypeAlias

from nasir.importing.recording import Call, Ref, Tree
from nasir.ir import JSON, ValueType

Step: TypeAlias = tuple[str, Mapping[str, JSON]]
"""An op of one input and its attributes."""


@dataclass(frozen=True, slots=True)
class Typed:
    """The op that a call is, its attributes, and which of its operands are the inputs, by number of the value.

    `weights`: those that are parameters or buffers and become weights of the node, by the name that its op gives them.
    `then`: ops that come after it, one after another, where a call is several.
    """

    op: str
    inputs: tuple[int, ...]
    attrs: Mapping[str, JSON]
    weights: Mapping[str, int] = field(default_factory=dict)
    then: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """What a rule sees: the call, the types of values so far, and the names of the leaf's parameters and buffers.

    `results`: the types of what the call gives, by shape; which axis holds the channels, rules say.
    """

    call: Call
    types: Callable[[int], ValueType]
    weights: frozenset[str]
    results: tuple[ValueType, ...] = ()

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


@dataclass(frozen=True, slots=True)
class Operand:
    """An operand by its position and name; of a leaf module its attribute of that name."""

    position: int
    word: str
    default: Tree = None

    def of(self, place: Place) -> Tree:
        """What the call was given for it."""
        if place.call.module is not None:
            return place.call.attributes.get(self.word, self.default)
        return place.given(self.position, self.word, self.default)


IGNORED = frozenset({"_stacklevel"})


def is_number(value: Tree) -> bool:
    """Whether an operand is a plain finite number."""
    return type(value) in (int, float) and isfinite(value)


def is_plain(value: Tree) -> bool:
    """Whether an operand is None, a word or a plain finite number: the same in all modes and for all batches."""
    return value is None or isinstance(value, str) or is_number(value)


Rule: TypeAlias = Callable[[Place, int, ValueType], Typed | None]
RULES: dict[str, Rule] = {}


def rule(*operations: str) -> Callable[[Rule], Rule]:
    """Register `function(place, x, type)` for operations whose first operand is a tensor `x`, or a list of them.

    A `*` stands for any letters: classes of one kind, which several modules of a library have.
    """

    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operations, function))
        return function

    return add


def rule_of(operation: str) -> Rule | None:
    """The rule for an operation, None without one."""
    found = RULES.get(operation)
    if found is not None:
        return found
    return next((made for name, made in RULES.items() if "*" in name and fnmatchcase(operation, name)), None)


def typed(place: Place) -> Typed | None:
    """The op of a call; None where no rule takes it."""
    found = rule_of(place.call.operation)
    first = place.first
    if found is None or first is None or not place.call.gradient or place.call.autocast is not None:
        return None
    return found(place, first, place.types(first))


def plain(op: str, *operations: str, **operands: Operand) -> None:
    """Operations that are an op of one input, whose attributes are plain `operands`.

    Any other operand than those and `inplace` makes it something else.
    """
    words = {operand.word for operand in operands.values()} | {"input", "inplace"}
    last = max([operand.position for operand in operands.values()], default=0)

    @rule(*operations)
    def take(place: Place, x: int, value: ValueType) -> Typed | None:
        call = place.call
        others = {word: given for word, given in call.kwargs.items() if word not in words and given is not None}
        if len(call.args) > last + 1 or others.keys() - IGNORED:
            return None
        attrs = {name: operand.of(place) for name, operand in operands.items()}
        return Typed(op, (x,), attrs) if all(map(is_plain, attrs.values())) else None


def whole(*values: Tree) -> bool:
    """Whether each is a whole number, or several, whatever mode and batch."""
    return all(type(part) is int for v in values for part in (v if isinstance(v, tuple | list) and v else (v,)))


def axis_of(number: Tree, value: ValueType, more: int = 0) -> int | None:
    """The axis that an operand counts, from the end where it is negative, without the batch axis; None where it is no
    whole number, or the batch axis. `more`: axes that the result has beside those of the value."""
    lead = 1 if value.batch else 0
    if type(number) is not int:
        return None
    axis = number % (len(value.shape) + lead + more) - lead
    return None if axis < 0 else axis
