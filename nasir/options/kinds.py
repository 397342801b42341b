"""What a value may be: a kind checks and normalizes values and describes itself as JSON Schema."""

from __future__ import annotations

import math
import numbers
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from nasir.options import words
from nasir.options.words import EXPECTED, Fault, shown

Schema: TypeAlias = dict[str, Any]
Result: TypeAlias = tuple[Any, list[Fault]]
"""The value in its normal form, and its faults; the value counts only if there are none."""
Bounds: TypeAlias = tuple[tuple[str, Any], ...]
"""(constraint, limit) pairs: gt, ge, lt, le and multiple_of of numbers, min_length and max_length of others."""

HOLDS: Mapping[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
    "multiple_of": lambda value, limit: value % limit == 0,
    "min_length": operator.ge,
    "max_length": operator.le,
}
_IN_SCHEMA = {
    "gt": "exclusiveMinimum",
    "ge": "minimum",
    "lt": "exclusiveMaximum",
    "le": "maximum",
    "multiple_of": "multipleOf",
}


@dataclass(frozen=True)
class Kind:
    """What a value may be; this one takes anything as it is."""

    @property
    def expected(self) -> tuple[str, str]:
        """In words what is expected, and the remedy where something else was found."""
        return "anything", ""

    def normal(self, value: Any) -> Result:
        """The value in its normal form, and its faults."""
        return value, []

    def schema(self) -> Schema:
        """As JSON Schema; empty where anything is taken."""
        return {}

    def members(self) -> Iterator[Kind]:
        """The alternatives of a union; else itself."""
        yield self

    def wrong(self, value: Any) -> Result:
        """The answer to a value of another type."""
        name, remedy = self.expected
        return value, [((), f"expected {name}, found {shown(value)}", remedy)]


@dataclass(frozen=True)
class Scalar(Kind):
    """A bool, a text or nothing."""

    plain: type
    bounds: Bounds = ()
    pattern: tuple[str, str] | None = None  # a regular expression, and what it asks for in words
    suggested: tuple[str, ...] = ()  # what editors offer

    @property
    def expected(self) -> tuple[str, str]:
        return EXPECTED[self.plain]

    def normal(self, value: Any) -> Result:
        if not isinstance(value, self.plain):
            return self.wrong(value)
        if self.pattern is not None and re.fullmatch(self.pattern[0], str(value)) is None:
            return value, [((), *words.wrong_form(value, self.pattern[1]))]
        for bound, limit in self.bounds:  # only texts have bounds
            length = len(str(value))
            if not HOLDS[bound](length, limit):
                text = words.wrong_length(bound, limit, length, "letters") if length else words.EMPTY_TEXT
                return value, [((), *text)]
        return value, []

    def schema(self) -> Schema:
        if self.suggested:
            return {"enum": list(self.suggested)}
        named = {"min_length": "minLength", "max_length": "maxLength"}
        names = {str: "string", bool: "boolean"}
        form = {} if self.pattern is None else {"pattern": self.pattern[0]}
        return {"type": names.get(self.plain, "null"), **{named[bound]: limit for bound, limit in self.bounds}, **form}


@dataclass(frozen=True)
class Number(Kind):
    """A whole number (`plain` int) or a finite one (float), within bounds; it becomes a plain int or float."""

    plain: type
    bounds: Bounds = ()
    remedy: str = ""

    @property
    def expected(self) -> tuple[str, str]:
        return EXPECTED[self.plain]

    def normal(self, value: Any) -> Result:
        plain = value
        if type(value) is not self.plain:  # the usual case is quick
            if isinstance(value, bool) or not isinstance(
                value, numbers.Integral if self.plain is int else numbers.Real
            ):
                return self.wrong(value)
            try:
                plain = self.plain(value)
            except OverflowError:
                plain = math.inf
        if self.plain is float and not math.isfinite(plain):
            return value, [((), f"expected a finite number, found {shown(value)}", self.remedy or EXPECTED[float][1])]
        for bound, limit in self.bounds:
            if not HOLDS[bound](plain, limit):
                text, remedy = words.out_of_bounds(bound, limit, value)
                return value, [((), text, self.remedy or remedy)]
        return plain, []

    def schema(self) -> Schema:
        kind = "integer" if self.plain is int else "number"
        return {"type": kind, **{_IN_SCHEMA[bound]: limit for bound, limit in self.bounds}}


@dataclass(frozen=True)
class Amount(Number):
    """A number that may be written with its unit, such as `3 epochs`."""

    unit: str = ""  # in the plural

    def normal(self, value: Any) -> Result:
        if not isinstance(value, str):
            return super().normal(value)
        number = words.amount(value, self.unit)
        return (value, [((), *words.no_amount(value, self.unit))]) if number is None else super().normal(number)

    def schema(self) -> Schema:
        return {"anyOf": [super().schema(), {"type": "string", "pattern": words.amount_pattern(self.unit)}]}


@dataclass(frozen=True)
class Scaled(Number):
    """A number that may be written with its thousands, such as `40M`."""

    def normal(self, value: Any) -> Result:
        if not isinstance(value, str):
            return super().normal(value)
        number = words.scaled(value)
        return (value, [((), *words.not_scaled(value))]) if number is None else super().normal(number)

    def schema(self) -> Schema:
        return {"anyOf": [super().schema(), {"type": "string", "pattern": f"^{words.SCALED}$"}]}


@dataclass(frozen=True)
class Choice(Kind):
    """One of some words, or other constants."""

    choices: tuple[Any, ...]

    @property
    def expected(self) -> tuple[str, str]:
        names = ", ".join(map(words.written, self.choices))
        name = f"one of {names}" if len(self.choices) > 1 else f"the word {names}"
        return name, f"write {name}"

    def normal(self, value: Any) -> Result:
        if any(type(value) is type(choice) and value == choice for choice in self.choices):
            return value, []
        return value, [((), *words.unknown_word(value, self.choices))]

    def schema(self) -> Schema:
        return {"enum": list(self.choices)}


@dataclass(frozen=True)
class Items(Kind):
    """A list, tuple or set; `each` are the kinds of its items in order, or the one kind of all (`fixed` false)."""

    made: Callable[[Iterable[Any]], Any]
    each: tuple[Kind, ...] = (Kind(),)
    fixed: bool = False
    bounds: Bounds = ()
    remedy: str = ""

    @property
    def expected(self) -> tuple[str, str]:
        return EXPECTED[list]

    def normal(self, value: Any) -> Result:
        if not isinstance(value, list | tuple | set | frozenset if self.made is frozenset else list | tuple):
            return self.wrong(value)
        if self.fixed and len(value) != len(self.each):
            return value, [((), f"expected {len(self.each)} items, found {len(value)}", f"give {len(self.each)}")]
        results = [self.of(index).normal(item) for index, item in enumerate(value)]
        faults: list[Fault] = [
            ((index, *path), text, cure)
            for index, (_, item_faults) in enumerate(results)
            for path, text, cure in item_faults
        ]
        if faults:
            return value, faults
        for bound, limit in self.bounds:
            if not HOLDS[bound](len(value), limit):
                text, remedy = words.wrong_length(bound, limit, len(value))
                return value, [((), text, self.remedy or remedy)]
        return self.made([item for item, _ in results]), []

    def of(self, index: int) -> Kind:
        """The kind of one item."""
        return self.each[index] if self.fixed else self.each[0]

    def schema(self) -> Schema:
        named = {"min_length": "minItems", "max_length": "maxItems"}
        schema: Schema = {"type": "array", **{named[bound]: limit for bound, limit in self.bounds}}
        items = [kind.schema() for kind in self.each]
        if self.fixed:
            return {**schema, "items": items, "minItems": len(items), "maxItems": len(items)}
        return {**schema, "items": items[0]} if items[0] else schema


@dataclass(frozen=True)
class Table(Kind):
    """A mapping by text."""

    keys: Kind = field(default_factory=Kind)
    each: Kind = field(default_factory=Kind)
    bounds: Bounds = ()
    remedy: str = ""

    @property
    def expected(self) -> tuple[str, str]:
        return EXPECTED[dict]

    def normal(self, value: Any) -> Result:
        if not isinstance(value, Mapping):
            return self.wrong(value)
        faults: list[Fault] = []
        made = {}
        for key, item in value.items():
            name, wrong = self.keys.normal(key)
            made[name], below = self.each.normal(item)
            faults += [((key, *path), text, cure) for path, text, cure in (*wrong, *below)]
        for bound, limit in self.bounds:
            if not faults and not HOLDS[bound](len(value), limit):
                text, remedy = words.wrong_length(bound, limit, len(value))
                faults.append(((), text, self.remedy or remedy))
        return made, faults

    def schema(self) -> Schema:
        named = {"min_length": "minProperties", "max_length": "maxProperties"}
        schema: Schema = {"type": "object", **{named[bound]: limit for bound, limit in self.bounds}}
        below = self.each.schema()
        if isinstance(self.keys, Choice):
            return {**schema, "properties": {key: below for key in self.keys.choices}, "additionalProperties": False}
        return {**schema, "additionalProperties": below} if below else schema


@dataclass(frozen=True)
class Dataclass(Kind):
    """A dataclass, or a mapping that it can be made from; `build` gives the object and its faults."""

    plain: type
    build: Callable[[type, Mapping[str, Any]], Result]
    described: Callable[[type], Schema]

    @property
    def expected(self) -> tuple[str, str]:
        return EXPECTED[dict]

    def normal(self, value: Any) -> Result:
        if isinstance(value, self.plain):
            return value, []
        return self.build(self.plain, value) if isinstance(value, Mapping) else self.wrong(value)

    def schema(self) -> Schema:
        return self.described(self.plain)


@dataclass(frozen=True)
class Either(Kind):
    """A union: the member that takes a value as it is, else the first that takes it."""

    kinds: tuple[Kind, ...]

    @property
    def expected(self) -> tuple[str, str]:
        name = " or ".join(dict.fromkeys(kind.expected[0] for kind in self.kinds))
        return name, f"write {name}"

    def members(self) -> Iterator[Kind]:
        for kind in self.kinds:
            yield from kind.members()

    def normal(self, value: Any) -> Result:
        results = []
        for kind in self.kinds:
            made, faults = kind.normal(value)
            if not faults and type(made) is type(value):
                return made, faults
            results.append((made, faults))
        for made, faults in results:
            if not faults:
                return made, faults
        # a member of the right type gives the best description of the fault
        for kind, (_, faults) in zip(self.kinds, results, strict=True):
            if faults != kind.wrong(value)[1] and not isinstance(kind, Choice):
                return value, faults
        name, remedy = self.expected
        choices = [choice for kind in self.members() if isinstance(kind, Choice) for choice in kind.choices]
        if choices and isinstance(value, str):
            remedy = words.suggestion(value, map(words.written, choices))
        return value, [((), f"expected {name}, found {shown(value)}", remedy)]

    def schema(self) -> Schema:
        return {"anyOf": [kind.schema() for kind in self.members()]}


@dataclass(frozen=True)
class Written(Kind):
    """A kind whose values are brought to one of several equal forms."""

    kind: Kind
    canonical: Callable[[Any], Any]

    @property
    def expected(self) -> tuple[str, str]:
        return self.kind.expected

    def normal(self, value: Any) -> Result:
        made, faults = self.kind.normal(value)
        return (value, faults) if faults else (self.canonical(made), [])

    def schema(self) -> Schema:
        return self.kind.schema()

    def members(self) -> Iterator[Kind]:
        return self.kind.members()
