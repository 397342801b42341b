"""An op is one typed function: input types and attributes in; output types, weight slots and spaces out.

    @op("batch_norm", nonnegative=None)
    def batch_norm(at: At, x: ValueType, eps: float = 1e-5, momentum: float = 0.1) -> ValueType: ...

Parameters after the input types are the node's attributes: their annotations check and normalize values, their
defaults fill what a user leaves out. A third-party op registers in the same way, or by entry point (`nasir.ops`).
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from nasir.errors import TypeRuleError
from nasir.ir.types import JSON, Fill, Role, Slot, SlotAxis, ValueType
from nasir.registry import ops

if TYPE_CHECKING:
    from nasir.ir.infer import At

Rule: TypeAlias = Callable[..., ValueType | tuple[ValueType, ...]]
Macs: TypeAlias = Callable[[Mapping[str, JSON], tuple[ValueType, ...], ValueType], int]
Unordered: TypeAlias = Callable[[Mapping[str, JSON], tuple[ValueType, ...], ValueType], tuple[str, str] | None]
Sign: TypeAlias = Literal["always", "keeps"] | None
Pair: TypeAlias = int | tuple[int, int]
SHARED = 10_000  # attribute sets an op remembers

__all__ = ["At", "Fill", "OpDef", "Pair", "Role", "Slot", "SlotAxis", "op", "op_named", "pair"]


@dataclass(frozen=True, slots=True)
class OpDef:
    """A registered op.

    `nonnegative`: "always" when the output is >= 0 whatever comes in, "keeps" when it is if all inputs are, None
    otherwise. `mixes`: it normalizes over the channel axis, so resizing that axis is never exact. `macs` counts
    multiply-accumulates for one sample. `unordered` says where the gradient can only be summed up in no fixed order on
    a CUDA device, so that equal steps differ in their last bits: for attributes, input types and output type a reason
    that goes on after "'label'", and the remedy, or None where there is a fixed order (without it: always). `several`:
    the rule returns a tuple of outputs.
    """

    name: str
    rule: Rule
    attrs: Mapping[str, inspect.Parameter]
    arity: tuple[int, int | None]
    nonnegative: Sign
    mixes: bool
    macs: Macs | None
    unordered: Unordered | None
    several: bool
    doc: str
    _known: dict[Any, dict[str, JSON]] = field(default_factory=dict, compare=False, repr=False)

    def normalize(self, attrs: Mapping[str, JSON], label: str) -> dict[str, JSON]:
        """Attributes in declaration order, defaults filled, values in the declared type; raises TypeRuleError."""
        # a network repeats few attribute sets: nodes share one dict of each; the types keep 1, 1.0 and True apart
        try:
            key = (*attrs.items(), *map(type, attrs.values()))
            known = self._known.get(key)
        except TypeError:  # a list among the values: tuples once normalized
            return self._normalize(attrs, label)
        if known is None:
            known = self._normalize(attrs, label)
            if len(self._known) < SHARED:
                self._known[key] = known
        return known

    def _normalize(self, attrs: Mapping[str, JSON], label: str) -> dict[str, JSON]:
        unknown = [key for key in attrs if key not in self.attrs]
        if unknown:
            raise TypeRuleError(self._unknown_attr(unknown[0], label))
        full: dict[str, JSON] = {}
        for name, parameter in self.attrs.items():
            if name in attrs:
                full[name] = _normal(attrs[name], str(parameter.annotation), f"{self.name} '{label}': {name}")
            elif parameter.default is inspect.Parameter.empty:
                raise TypeRuleError(f"{self.name} '{label}': attribute {name!r} is missing; give it a value")
            else:
                full[name] = parameter.default
        return full

    def _unknown_attr(self, name: str, label: str) -> str:
        close = difflib.get_close_matches(name, self.attrs, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(self.attrs) or 'none'}"
        return f"{self.name} '{label}': unknown attribute {name!r}; {hint}"


def op(
    name: str,
    *,
    nonnegative: Sign = None,
    mixes: bool = False,
    macs: Macs | None = None,
    unordered: Unordered | None = None,
) -> Callable[[Rule], Rule]:
    """Register a typed function as an op; see `OpDef` for the flags."""

    def add(rule: Rule) -> Rule:
        parameters = list(inspect.signature(rule).parameters.values())[1:]
        values = [p for p in parameters if "ValueType" in str(p.annotation)]
        variadic = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in values)
        arity = (1 if variadic else len(values), None if variadic else len(values))
        attrs = {p.name: p for p in parameters if p not in values}
        doc = inspect.getdoc(rule) or ""
        several = "tuple" in str(inspect.signature(rule).return_annotation)
        ops.register(name)(OpDef(name, rule, attrs, arity, nonnegative, mixes, macs, unordered, several, doc))
        return rule

    return add


def op_named(name: str) -> OpDef:
    """The op called `name`; raises UnknownName."""
    found = loaded.get(name)
    if found is None:
        thing = ops.get(name)
        # an entry point may name the typed function; importing its module registered the OpDef under the name
        found = thing if isinstance(thing, OpDef) else ops.get(name)
        if not isinstance(found, OpDef):
            raise TypeRuleError(
                f"op {name!r}: the entry point gave {thing!r}; decorate the function with @op({name!r})"
            )
        loaded[name] = found
    return found


loaded: dict[str, OpDef] = {}  # the ops that were asked for, by name


def pair(value: Pair) -> tuple[int, int]:
    """(h, w) of an attribute that may be one number."""
    return (value, value) if isinstance(value, int) else value


def _normal(value: JSON, annotation: str, place: str) -> JSON:
    """`value` in the declared type, so that equal architectures have equal attributes (1 and 1.0, [3, 3] and 3)."""
    if annotation == "Pair":
        return _normal_pair(value, place)
    if annotation == "bool":
        wanted: Any = bool
    elif annotation == "int":
        wanted = int
    elif annotation == "float":
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        wanted = float
    elif annotation == "str":
        wanted = str
    elif annotation.startswith("tuple[int"):
        if isinstance(value, list | tuple) and all(type(v) is int for v in value):
            return tuple(value)
        raise TypeRuleError(f"{place} must be a list of whole numbers, not {value!r}")
    else:
        return value
    if type(value) is not wanted:
        names = {int: "a whole number", bool: "true or false", float: "a number", str: "a text"}
        raise TypeRuleError(f"{place} must be {names[wanted]}, not {value!r}")
    return value


def _normal_pair(value: JSON, place: str) -> Pair:
    if type(value) is int:
        return value
    if isinstance(value, list | tuple) and len(value) == 2 and all(type(v) is int for v in value):
        return value[0] if value[0] == value[1] else (value[0], value[1])
    raise TypeRuleError(f"{place} must be one whole number or two (height, width), not {value!r}")
