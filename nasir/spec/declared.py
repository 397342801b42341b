"""Values of a spec whose options a dataclass declares: checked and described by its fields, and made into it.

A field `budget: Annotated[Budget, OptionsOf(Budget)]` of a model takes a mapping of YAML.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from nasir.errors import OptionError
from nasir.options import Fault, Option, checked, options_of, schema_of, shown
from nasir.options.declared import NONE
from nasir.options.kinds import Items
from nasir.options.words import EXPECTED, MISSING_OPTION, UNKNOWN_OPTION


@dataclass(frozen=True)
class Short:
    """Another way for a spec to write an option.

    `read` gives its full form, NONE for the default; `show` what a resolved spec has for it, None for nothing.
    """

    read: Callable[[Any], Any]
    show: Callable[[Any], Any]
    schema: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class OptionsOf:
    """In `Annotated`: a mapping of options that the dataclass `made` declares.

    names   some of them; what comes of the mapping is then these with their defaults, else a `made`
    fixed   what the dataclass is given beside them
    needed  those that have no default here
    filled  lists that have an item or more where they are given
    about   what it is, for the schema; else the first line of the dataclass says so
    """

    made: type
    names: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    needed: frozenset[str] = frozenset()
    filled: frozenset[str] = frozenset()
    about: str = ""
    short: Mapping[str, Short] = field(default_factory=dict)

    @property
    def options(self) -> Mapping[str, Option]:
        """By name, in the order of a resolved spec."""
        known = options_of(self.made)
        options = {}
        for name in self.names or known:
            option = known[name]
            if name in self.needed:
                option = replace(option, default=NONE)
            if name in self.filled and isinstance(option.kind, Items):
                option = replace(option, kind=replace(option.kind, bounds=(("min_length", 1),)))
            options[name] = option
        return options

    def read(self, value: Any) -> Any:
        """The dataclass or the mapping of a value; raises ValidationError with every fault."""
        if isinstance(value, self.made):
            return value
        if not isinstance(value, Mapping):
            text, remedy = EXPECTED[dict]
            refuse([((), f"expected {text}, found {shown(value)}", remedy)], value)
        full = {name: self.short[name].read(item) if name in self.short else item for name, item in value.items()}
        full = {name: item for name, item in full.items() if item is not NONE}
        normal, faults = checked(self.options, full, "mapping")
        if faults:
            refuse(faults, value)
        try:
            made = self.made(**self.fixed, **normal)
        except OptionError as error:
            refuse(error.faults, value, own=True)
        return {name: getattr(made, name) for name in self.names} if self.names else made

    def show(self, value: Any) -> dict[str, Any]:
        """Its form in a resolved spec: JSON, without what is None."""
        given = value if self.names else {name: getattr(value, name) for name in self.options}
        told = {name: self.short[name].show(item) if name in self.short else item for name, item in given.items()}
        return {name: as_json(item) for name, item in told.items() if item is not None}

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.read, serialization=core_schema.plain_serializer_function_ser_schema(self.show)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        made = schema_of(self.options)
        for name, short in self.short.items():
            known = made["properties"][name]
            made["properties"][name] = {**short.schema, **{key: known[key] for key in ("description",) if key in known}}
        return {"description": self.about or (self.made.__doc__ or "").partition("\n")[0], **made}


def declared(made: type, name: str, default: Any = NONE) -> Any:
    """A field of a model that is an option of a dataclass too: what it is, and its default if a spec has no other."""
    option = options_of(made)[name]
    return Field(default=option.default if default is NONE else default, description=option.about or None)


def refuse(faults: Iterable[Fault], given: Any, own: bool = False) -> NoReturn:
    """Raise the faults of options as pydantic's error, each at its place below `given`.

    `own`: the dataclass itself found options that do not agree; the fault is reported at the newest that it names.
    """
    raise ValidationError.from_exception_data("options", [_details(fault, given, own) for fault in faults])


def _details(fault: Fault, given: Any, own: bool) -> InitErrorDetails:
    path, text, remedy = fault
    if text == MISSING_OPTION:
        return InitErrorDetails(type="missing", loc=path, input=given)
    keys: tuple[Any, ...] = ()
    if text == UNKNOWN_OPTION:
        path, keys, text = path[:-1], path[-1:], "unknown key"
    if own:
        named = tuple(name for name in given if re.search(rf"\b{name}\b", text))
        path, keys = ((), named) if named and len(path) < 2 else (path, ())
    context = {"text": text, "remedy": remedy, "keys": keys}
    return InitErrorDetails(type=PydanticCustomError("nasir", "{text}", context), loc=path, input=given)


def as_json(value: Any) -> Any:
    """Tuples as lists, also inside mappings."""
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, tuple | list) else value
