"""Kinds read from annotations."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

import annotated_types as at

from nasir.errors import UsageError
from nasir.options.kinds import Amount, Bounds, Choice, Either, Items, Kind, Number, Scalar, Scaled, Table, Written

Record: TypeAlias = Callable[[type], Kind]

NUMERIC: Mapping[type, str] = {at.Gt: "gt", at.Ge: "ge", at.Lt: "lt", at.Le: "le", at.MultipleOf: "multiple_of"}
LENGTHS: Mapping[type, str] = {at.MinLen: "min_length", at.MaxLen: "max_length"}


@dataclass(frozen=True, slots=True)
class Remedy:
    """In `Annotated`, with bounds: what to do about a value outside of them, in place of the general advice."""

    text: str


@dataclass(frozen=True, slots=True)
class WithUnit:
    """In `Annotated` of a number: text such as `3 epochs`, or `1 epoch`, stands for the number too."""

    plural: str


@dataclass(frozen=True, slots=True)
class WithThousands:
    """In `Annotated` of a float: text such as `40M` or `1.2G` stands for the number too."""


@dataclass(frozen=True, slots=True)
class Suggested:
    """In `Annotated` of a text: words that editors offer; other words are not refused here."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pattern:
    """In `Annotated`: the regular expression that a text has to match as a whole, and what it asks for in words."""

    expression: str
    words: str


@dataclass(frozen=True, slots=True)
class Canonical:
    """In `Annotated`: which of several equal ways to write a value is kept, a function of the checked value."""

    function: Callable[[Any], Any]


def read_kind(annotation: Any, record: Record, metadata: Sequence[Any] = ()) -> Kind:
    """The kind of an annotation, with further `metadata` as in `Annotated`; one that is not a JSON type takes anything.

    `record` gives the kind of a dataclass, whose fields have kinds themselves. Raises UsageError for bounds that do not
    belong to the type, or that nothing here knows.
    """
    if hasattr(annotation, "__value__"):  # `type X = ...` of Python 3.12, whose class Python 3.11 does not have
        return read_kind(annotation.__value__, record, metadata)
    if get_origin(annotation) is Annotated:
        plain, *own = get_args(annotation)
        return read_kind(plain, record, (*own, *metadata))
    annotation = getattr(annotation, "__supertype__", annotation)  # of a NewType
    canonical = [entry.function for entry in metadata if isinstance(entry, Canonical)]
    if canonical:
        rest = [entry for entry in metadata if not isinstance(entry, Canonical)]
        return Written(read_kind(annotation, record, rest), canonical[0])
    made, taken = _made(annotation, record, tuple(metadata))
    missed = [constraint for constraint in _constraints(metadata) if type(constraint) not in taken]
    if missed and not isinstance(made, Either):  # for a union, `_union` has refused what fits none of its members
        raise UsageError(f"{missed[0]!r} is no bound of {_spelled(annotation)}; use those of annotated_types that are")
    return made


def _spelled(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _constraints(metadata: Iterable[Any]) -> list[Any]:
    """The bounds on values among `Annotated` metadata; grouped ones, such as Interval and Len, are taken apart."""
    constraints: list[Any] = []
    for entry in metadata:
        if isinstance(entry, at.GroupedMetadata):
            constraints += _constraints(entry)
        elif isinstance(entry, at.BaseMetadata):
            constraints.append(entry)
    return [constraint for constraint in constraints if constraint != at.MinLen(0)]


def _bounds(metadata: Iterable[Any], names: Mapping[type, str]) -> Bounds:
    bounds = []
    for constraint in _constraints(metadata):
        if type(constraint) in names:
            name = names[type(constraint)]
            bounds.append((name, getattr(constraint, name)))
    return tuple(bounds)


def _made(annotation: Any, record: Record, metadata: tuple[Any, ...]) -> tuple[Kind, set[type]]:
    """The kind, and the types of constraints that apply to it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    remedy = next((entry.text for entry in metadata if isinstance(entry, Remedy)), "")
    if origin in (Union, types.UnionType):
        return _union(arguments, record, metadata)
    if origin is Literal:
        return Choice(arguments), set()
    if annotation is None or annotation in (type(None), bool):
        return Scalar(bool if annotation is bool else type(None)), set()
    if annotation is str:
        pattern = next(((entry.expression, entry.words) for entry in metadata if isinstance(entry, Pattern)), None)
        suggested = next((entry.words for entry in metadata if isinstance(entry, Suggested)), ())
        return Scalar(str, _bounds(metadata, LENGTHS), pattern, suggested), set(LENGTHS)
    if annotation in (int, float):
        unit = next((entry.plural for entry in metadata if isinstance(entry, WithUnit)), None)
        bounds = _bounds(metadata, NUMERIC)
        number = Number(annotation, bounds, remedy) if unit is None else Amount(annotation, bounds, remedy, unit)
        if any(isinstance(entry, WithThousands) for entry in metadata):
            number = Scaled(annotation, bounds, remedy)
        return number, set(NUMERIC)
    plain = origin or annotation
    if not isinstance(plain, type):
        return Kind(), set()
    lengths = _bounds(metadata, LENGTHS)
    if issubclass(plain, Mapping):
        keys, each = (
            (read_kind(argument, record) for argument in arguments) if len(arguments) == 2 else (Kind(), Kind())
        )
        return Table(keys, each, lengths, remedy), set(LENGTHS)
    if issubclass(plain, tuple) and not hasattr(plain, "_fields"):
        variadic = not arguments or arguments[-1] is Ellipsis
        each_of = tuple(read_kind(argument, record) for argument in arguments if argument is not Ellipsis) or (Kind(),)
        return Items(tuple, each_of, not variadic, lengths, remedy), set(LENGTHS)
    if issubclass(plain, Sequence | Set) and not issubclass(plain, str | bytes):
        made = list if issubclass(plain, list) else frozenset if issubclass(plain, Set) else tuple
        return Items(
            made, tuple(read_kind(argument, record) for argument in arguments) or (Kind(),), False, lengths, remedy
        ), set(LENGTHS)
    if dataclasses.is_dataclass(plain):
        return record(plain), set()
    return Kind(), set()


def _union(members: Sequence[Any], record: Record, metadata: tuple[Any, ...]) -> tuple[Kind, set[type]]:
    """A union whose bounds hold for those members that can have them."""
    rest = tuple(entry for entry in metadata if not isinstance(entry, at.BaseMetadata | at.GroupedMetadata))
    made, used = [], set()
    for member in members:
        _, taken = _made(member, record, ())
        fitting = [constraint for constraint in _constraints(metadata) if type(constraint) in taken]
        used |= {type(constraint) for constraint in fitting}
        made.append(read_kind(member, record, (*fitting, *rest)))
    missed = [constraint for constraint in _constraints(metadata) if type(constraint) not in used]
    if missed:
        raise UsageError(f"{missed[0]!r} is no bound of any of {', '.join(map(_spelled, members))}")
    return Either(tuple(made)), used
