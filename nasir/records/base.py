"""What all records have in common: number and time, and how their fields lie in JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, NamedTuple, Union, get_args, get_origin, get_type_hints

import annotated_types as at

__all__ = ["Has", "IfMissing", "Key", "Record", "RecordField", "RecordLayout", "layout"]


CHAIN = "chain"
"""The key of a line's checksum in its journal (`nasir.journal.chain`); no field of a record."""


@dataclass(frozen=True, slots=True)
class IfMissing:
    """In `Annotated`: what a field is where a record lacks it; `dict`: a mapping of nothing. Whoever makes a record in
    Python has to give the field."""

    value: Any


@dataclass(frozen=True, slots=True)
class Key:
    """In `Annotated`: the key in JSON of a field that cannot be called that in Python."""

    name: str


class Has(tuple[str, ...]):
    """In `Annotated`: keys that a mapping has, unless it is empty."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Record:
    """One thing that happened in a run; each kind is a class with fields of its own.

    A field with a default is left out of the JSON where it has it; all others are written. A record that was read keeps
    what it lacked (`absent`) and what nasir does not know (`extra`), so that it is written as it was.

    The old way to read one, as a mapping (`record["kind"]`, `record.get("noted")`), goes on to work in this release.
    """

    kind: ClassVar[str] = ""

    n: Annotated[int, at.Ge(-1), at.doc("number of the record in its journal, from 0; -1: it is in none")] = -1
    time: Annotated[float, at.doc("when it was written, in Unix seconds; 0: it was not")] = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    absent: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        keys = (place.key for place in layout(type(self)).optional if getattr(self, place.name) == place.default())
        object.__setattr__(self, "absent", frozenset(keys))

    def to_json(self) -> dict[str, Any]:
        """As JSON data, `kind` first; `from_json` reads it back."""
        absent = self.absent
        made: dict[str, Any] = {"kind": self.kind}
        for key, name in layout(type(self)).names.items():
            if key not in absent:
                made[key] = getattr(self, name)
        made.update(self.extra)
        return made

    def __getitem__(self, key: str) -> Any:
        if key == "kind":
            return self.kind
        if key in self.absent:
            raise KeyError(key)
        name = layout(type(self)).names.get(key)
        return self.extra[key] if name is None else getattr(self, name)

    def __contains__(self, key: object) -> bool:
        return key == "kind" or (key in layout(type(self)).names and key not in self.absent) or key in self.extra

    def get(self, key: str, default: Any = None) -> Any:
        """The old way: the value of a key in JSON, or `default` where the record lacks it."""
        return self[key] if key in self else default

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_json())

    def __len__(self) -> int:
        return len(self.to_json())

    def keys(self) -> KeysView[str]:
        """The old way: the keys in JSON."""
        return self.to_json().keys()

    def items(self) -> ItemsView[str, Any]:
        """The old way: keys and values in JSON."""
        return self.to_json().items()

    def values(self) -> ValuesView[Any]:
        """The old way: the values in JSON."""
        return self.to_json().values()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record | dict):
            return NotImplemented
        return dict(self) == dict(other)


# registered, not a base class: `isinstance` is slow for abstract bases, and folds over histories call it constantly
Mapping.register(Record)


class Allowed(NamedTuple):
    """What a JSON value may be. `plain`: its types; `low`: its least value, if it is a number that has one."""

    plain: tuple[type, ...]
    low: float | None

    def takes(self, value: Any) -> bool:
        """Whether a value, of JSON or made in Python, is one of those; a number with a least value is finite."""
        kind, plain, low = type(value), self.plain, self.low
        if kind not in plain and (not isinstance(value, plain) or (kind is bool and bool not in plain)):
            return False
        return low is None or value is None or low <= value < math.inf

    @property
    def spelled(self) -> str:
        """It in words."""
        plain = [kind for kind in self.plain if kind is not int or float not in self.plain]
        least = "" if self.low is None else f" of at least {self.low:g}"
        return " or ".join(dict.fromkeys(SPELLED[kind] for kind in plain)) + least


class RecordField(NamedTuple):
    """A field of a kind of record.

    `put` sets it, in a record that is being made. `inside`: what the values of a mapping, or the items of a list, may
    be, None: anything; `has`: keys of a mapping, unless it is empty. `missing`: its default, `dict` for a mapping of
    nothing, if it `may` be missing; `left_out`: its key is left out where it has that.
    """

    key: str
    put: Callable[[Any, Any], None]
    allowed: Allowed
    inside: Allowed | None
    may: bool
    missing: Any
    has: tuple[str, ...]
    left_out: bool
    name: str
    says: str

    def default(self) -> Any:
        """Its value where the record lacks it."""
        return {} if self.missing is dict else self.missing


class RecordLayout(NamedTuple):
    """The fields of a kind of record; `names`: attribute by key; `optional`: those left out where they say nothing."""

    places: tuple[RecordField, ...]
    names: Mapping[str, str]
    optional: tuple[RecordField, ...]


PLAIN: Mapping[Any, tuple[type, ...]] = {
    int: (int,),
    float: (float, int),
    str: (str,),
    bool: (bool,),
    Mapping: (dict, Mapping),
    Sequence: (list, tuple),
    NoneType: (NoneType,),
}
SPELLED: Mapping[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    dict: "an object",
    Mapping: "an object",
    list: "a list",
    tuple: "a list",
    NoneType: "null",
}


_LAYOUTS: dict[type[Record], RecordLayout] = {}


def layout(made: type[Record]) -> RecordLayout:
    """The fields of a kind of record as they lie in JSON, its own before `n` and `time`."""
    if made not in _LAYOUTS:
        _LAYOUTS[made] = _laid_out(made)
    return _LAYOUTS[made]


def _laid_out(made: type[Record]) -> RecordLayout:
    hints = get_type_hints(made, include_extras=True)
    items = [item for item in dataclasses.fields(made) if item.name not in ("extra", "absent")]
    items.sort(key=lambda item: item.name in ("n", "time"))
    places = []
    for item in items:
        name = item.name
        plain, inner, metadata = _parts(hints[name])
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory
        left_out = default is not dataclasses.MISSING
        told = [entry.value for entry in metadata if isinstance(entry, IfMissing)]
        place = RecordField(
            key=next((entry.name for entry in metadata if isinstance(entry, Key)), name),
            left_out=left_out,
            name=name,
            put=getattr(made, name).__set__,
            allowed=Allowed(plain, _least(metadata)),
            inside=None if inner is Any else Allowed(_parts(inner)[0], _least(_parts(inner)[2])),
            has=next((entry for entry in metadata if isinstance(entry, Has)), ()),
            may=left_out or bool(told),
            missing=default if left_out else told[0] if told else None,
            says=next((entry.documentation for entry in metadata if isinstance(entry, at.DocInfo)), ""),
        )
        places.append(place)
    names = {place.key: place.name for place in places}
    return RecordLayout(tuple(places), names, tuple(place for place in places if place.left_out))


def _least(metadata: Iterable[Any]) -> float | None:
    return next((float(str(entry.ge)) for entry in metadata if isinstance(entry, at.Ge)), None)


def _parts(annotation: Any) -> tuple[tuple[type, ...], Any, tuple[Any, ...]]:
    """Of an annotation: JSON types, what is inside of a mapping or list (Any: anything, or there is no inside), and all
    its `Annotated` metadata, those of the members of a union too."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        plain, inner, metadata = _parts(arguments[0])
        return plain, inner, (*arguments[1:], *metadata)
    if origin in (Union, UnionType):
        members = [_parts(member) for member in arguments]
        types = tuple(json_type for plain, _, _ in members for json_type in plain)
        inner = next((inner for _, inner, _ in members if inner is not Any), Any)
        return types, inner, tuple(entry for _, _, metadata in members for entry in metadata)
    return PLAIN[origin or annotation], arguments[-1] if arguments else Any, ()
